"""How many tiles of a block reach each level: all that a race keeps of tile consistencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.engine.racing.order import Round

__all__ = ["Look", "Tally"]

COARSE = 51
QUANTILES = np.arange(0.02, 0.99, 0.0125)
PARTS = 4
MOST_CUT = 16
FINEST = 1e-5


@dataclass(frozen=True, slots=True)
class Look:
    """What the blocks of a round add, and what was known before it.

    Levels are numbered from 0, below every number, to the last, above every number. Counts are
    in units of a whole block's tiles.

    Parameters
    ----------
    counts
        Tiles at or above each level, as they are and with epsilon added, (block, 2, model, level).
    weights, unread
        Weights and unread blocks of the round; see `cte_dask.engine.racing.order.Round`.
    least_before, most_before, number_before
        Sums over all earlier rounds, (2, model, level), (model, level) and (model,). At levels
        that did not exist then: at least and at most so many.
    """

    counts: NDArray[np.float64]
    weights: NDArray[np.float64]
    unread: int
    least_before: NDArray[np.float64]
    most_before: NDArray[np.float64]
    number_before: NDArray[np.float64]


class Tally:
    """Running counts of the tiles of each model at or above each level.

    Parameters
    ----------
    values
        Consistencies of a first look (model, tile), NaN where a tile says nothing. Levels are
        fine where the tiles of the best model lie: any would be valid, these tell it from others.
    tiles_per_block
        Tiles of a whole block.
    raise_by
        The second counts are those of consistencies with this added.
    """

    def __init__(
        self, values: NDArray[np.float64], *, tiles_per_block: int, raise_by: float
    ) -> None:
        self.tiles_per_block, self.raise_by = tiles_per_block, raise_by
        self.levels = _levels(values)
        self._least = np.zeros((2, len(values), len(self.levels) + 2))
        self._most = self._least[0]

    @property
    def gaps(self) -> int:
        """Number of gaps between levels, with those below and above all."""
        return len(self.levels) + 1

    @property
    def edges(self) -> NDArray[np.float64]:
        """Ends of the gaps, (gaps + 1,), where consistencies can lie."""
        return np.concatenate([[0.0], self.levels, [1.0]])

    def look(self, drawn: Round, blocks: Sequence[NDArray[np.float64]]) -> Look:
        """Return what the blocks of a round (model, tile) add, without adding it."""
        counts = np.stack([self._counts(blocks, by) for by in (0.0, self.raise_by)], axis=1)
        weights = np.array(drawn.weights)
        return Look(counts, weights, drawn.unread, self._least, self._most, self._least[0, :, 0])

    def add(self, look: Look) -> None:
        """Add what a round brought."""
        added = look.counts.sum(axis=0)
        self._least, self._most = self._least + added, self._most + added[0]

    def medians(self) -> NDArray[np.float64]:
        """Return the median of each model (model,), interpolated; NaN without tiles."""
        counts = (self._least[0] + self._most) / 2
        # counts fall from level to level; negated they rise, as interp wants them
        medians = [
            np.interp(-row[0] / 2, -row, self.edges) if row[0] > 0 else np.nan for row in counts
        ]
        return np.array(medians)

    def cut(self, gaps: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Cut the wide ones of some gaps into parts, unless there are too many.

        Parameters
        ----------
        gaps
            Their numbers.

        Returns
        -------
        ndarray of int64 or None
            For each gap there is now, the one it was a part of; None if nothing was cut.
        """
        old, finest = self.levels, max(self.raise_by / 16, FINEST)
        inside = gaps[(gaps > 0) & (gaps < len(old))]
        wide = inside[old[inside] - old[inside - 1] > finest]
        if not 0 < len(wide) <= MOST_CUT:
            return None
        ends = [np.linspace(old[g - 1], old[g], PARTS + 1)[1:-1] for g in wide]
        self.levels = np.unique(np.concatenate([old, *ends]))
        # earlier counts at a new level lie between those at the old levels around it
        under = np.searchsorted(old, self.levels, side="right")
        over = np.searchsorted(old, self.levels, side="left") + 1
        self._least = self._least[:, :, [0, *over, len(old) + 1]]
        self._most = self._most[:, [0, *under, len(old) + 1]]
        below = np.concatenate([[-np.inf], self.levels])
        return np.searchsorted(old, below, side="right").astype(np.int64)

    def _counts(
        self, blocks: Sequence[NDArray[np.float64]], raise_by: float
    ) -> NDArray[np.float64]:
        """Return (block, model, level) in units of a whole block; the first is of all tiles."""
        models, width = len(blocks[0]), len(self.levels) + 2
        counts = np.zeros((len(blocks), models, width))
        for number, block in enumerate(blocks):
            row, tile = np.nonzero(~np.isnan(block))
            reached = np.searchsorted(self.levels, block[row, tile] + raise_by, side="right")
            # one bincount for all models; summed from the top level down it counts what lies above
            histogram = np.bincount(row * width + reached, minlength=models * width)
            counts[number] = histogram.reshape(models, width)[:, ::-1].cumsum(axis=1)[:, ::-1]
        return counts / self.tiles_per_block


def _levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = [row[~np.isnan(row)] for row in values]
    rows = [row for row in rows if len(row)]
    chosen = [np.linspace(0, 1, COARSE)]
    if rows:
        middles = [float(np.median(row)) for row in rows]
        chosen += [np.quantile(rows[int(np.argmax(middles))], QUANTILES), np.array(middles)]
    return np.unique(np.clip(np.concatenate(chosen), 0, 1))
