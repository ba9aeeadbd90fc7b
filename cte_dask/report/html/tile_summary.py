"""Summary of a run's tiles, gathered block by block; its size does not depend on their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.ranking.bootstrap import CELLS_PER_AXIS
from cte_dask.results.dataset import blocks_of
from cte_dask.scoring.block_scores import STATUS
from cte_dask.tiles import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.results.store import Scores

__all__ = ["BINS", "MOST_CELLS", "TileSummary", "cell_counts", "summarise_tiles"]

BINS = 4096
"""Bins of the histograms of consistency, between 0 and 1."""

MOST_PER_AXIS = 64
MOST_CELLS = 2**19
"""Largest number of cells of all models' heat maps together."""


@dataclass(slots=True)
class TileSummary:
    """Summary of a run's tiles under the score that ranks.

    Parameters
    ----------
    models
        Names, in the order of the axes below.
    counts
        Tiles along z, y and x.
    cells
        Cells of the heat maps along z, y and x; a cell holds one tile or more.
    compete
        Whether a model may win a tile, bool (model,).
    medians
        Median consistency of each model (model,), to find a typical tile.
    histogram
        Tiles by consistency, int64 (model, region, bin); regions are the units of the bootstrap
        (`cte_dask.ranking.bootstrap.cells`), bins lie between 0 and 1.
    total, valid, seen
        Sum of consistencies, tiles with one, and tiles scored, (model, z, y, x).
    wins
        Tiles of each cell on which a model is the most consistent one; equal ones share.
    status
        Tiles by status (model, status).
    typical
        Per model the tiles of least, median and greatest consistency: (index, consistency).
    """

    models: tuple[str, ...]
    counts: Shape
    cells: Shape
    compete: NDArray[np.bool_]
    medians: NDArray[np.float64]
    histogram: NDArray[np.int64] = field(init=False)
    total: NDArray[np.float64] = field(init=False)
    valid: NDArray[np.int64] = field(init=False)
    seen: NDArray[np.int64] = field(init=False)
    wins: NDArray[np.float64] = field(init=False)
    status: NDArray[np.int64] = field(init=False)
    typical: dict[str, dict[str, tuple[int, float]]] = field(init=False)

    def __post_init__(self) -> None:
        number = len(self.models)
        self.histogram = np.zeros((number, CELLS_PER_AXIS**3, BINS), np.int64)
        self.total = np.zeros((number, *self.cells))
        self.valid, self.seen = (np.zeros((number, *self.cells), np.int64) for _ in range(2))
        self.wins = np.zeros((number, *self.cells))
        self.status = np.zeros((number, len(STATUS)), np.int64)
        self.typical = {name: {} for name in self.models}

    def add(self, index: NDArray[np.int64], values: NDArray[np.float64], status: NDArray) -> None:  # type: ignore[type-arg]
        """Add some tiles.

        Parameters
        ----------
        index
            Numbers of the tiles in their grid (tile,).
        values
            Their consistencies (model, tile), NaN where there is none.
        status
            Their status (model, tile); see `cte_dask.scoring.block_scores.STATUS`.
        """
        position = np.stack(np.unravel_index(index, self.counts))
        cell = self.cell_of(index)
        regions = _flat(position, self.counts, (CELLS_PER_AXIS,) * 3)
        valid, scored = ~np.isnan(values), status == STATUS["scored"]
        # A consistency of exactly 1 belongs to the last bin.
        bins = np.minimum((np.where(valid, values, 0) * BINS).astype(np.int64), BINS - 1)
        wins = self._wins(values)
        for m, name in enumerate(self.models):
            here = valid[m]
            # add.at, not +=: tiles of one cell repeat an index, and += would count it once.
            np.add.at(self.histogram[m], (regions[here], bins[m, here]), 1)
            np.add.at(self.total[m].reshape(-1), cell[here], values[m, here])
            np.add.at(self.valid[m].reshape(-1), cell[here], 1)
            np.add.at(self.seen[m].reshape(-1), cell[scored[m]], 1)
            np.add.at(self.wins[m].reshape(-1), cell, wins[m])
            self.status[m] += np.bincount(status[m].astype(np.int64), minlength=len(STATUS))
            self._keep_typical(m, name, index[here], values[m, here])

    def cell_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the cell that each tile lies in, numbered row by row.

        Parameters
        ----------
        index
            Numbers of the tiles in their grid (tile,).
        """
        return _flat(np.stack(np.unravel_index(index, self.counts)), self.counts, self.cells)

    def _wins(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        allowed = np.where(self.compete[:, None] & ~np.isnan(values), values, -np.inf)
        best = allowed.max(axis=0, initial=-np.inf)
        # -inf equals -inf: tiles that no model may win must not count as a tie of all.
        first = np.isfinite(best) & (allowed == best)
        shares: NDArray[np.float64] = first / np.maximum(first.sum(axis=0), 1)
        return shares

    def _keep_typical(
        self, number: int, name: str, index: NDArray[np.int64], values: NDArray[np.float64]
    ) -> None:
        if not len(values):
            return
        distance = np.abs(values - self.medians[number])
        positions = {"worst": values.argmin(), "median": distance.argmin(), "best": values.argmax()}
        typical = self.typical[name]
        for which, position in positions.items():
            new = int(index[position]), float(values[position])
            if which not in typical or self._better(which, new[1], typical[which][1], number):
                typical[which] = new

    def _better(self, which: str, new: float, old: float, number: int) -> bool:
        if which == "median":
            middle = float(self.medians[number])
            return abs(new - middle) < abs(old - middle)
        return new < old if which == "worst" else new > old

    def mean(self) -> NDArray[np.float64]:
        """Return the mean consistency of every cell, NaN without any, (model, z, y, x)."""
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty cell
            mean: NDArray[np.float64] = self.total / self.valid
        return mean

    def quantiles(self, levels: Sequence[float]) -> NDArray[np.float64]:
        """Return quantiles of each model's consistencies (model, quantile), to half a bin."""
        running = self.histogram.sum(axis=1).cumsum(axis=1)
        quantiles = np.full((len(self.models), len(levels)), np.nan)
        for m, row in enumerate(running):
            if row[-1]:
                # Rank of a quantile among n sorted values, from 1 to n (NumPy's "linear").
                ranks = np.array(levels) * (row[-1] - 1) + 1
                quantiles[m] = (np.searchsorted(row, ranks) + 0.5) / BINS
        return quantiles


def _flat(position: NDArray[np.int64], counts: Shape, divisions: Shape) -> NDArray[np.int64]:
    """Return which of the `divisions` of the grid holds each tile, as one number."""
    number = np.zeros(position.shape[1], np.int64)
    for coordinate, count, most in zip(position, counts, divisions, strict=True):
        # Row-major: the parts along earlier axes count as many times as the next axis has parts.
        number = number * most + coordinate * min(count, most) // count
    return number


def cell_counts(counts: Shape, models: int) -> Shape:
    """Return the cells of a heat map along z, y and x: one a tile where that is few enough.

    Parameters
    ----------
    counts
        Tiles along z, y and x.
    models
        Number of heat maps that share `MOST_CELLS`.

    Examples
    --------
    >>> cell_counts((8, 2, 2), 9), cell_counts((4000, 100, 100), 9)
    ((8, 2, 2), (38, 38, 38))
    """
    # One limit for all axes, lowered until the cells of all models fit.
    most = MOST_PER_AXIS
    while math.prod(min(n, most) for n in counts) * models > MOST_CELLS and most > 1:
        most -= 1
    z, y, x = (min(n, most) for n in counts)
    return z, y, x


def summarise_tiles(
    scores: Scores, order: Sequence[str], medians: Sequence[float], barred: set[str]
) -> TileSummary:
    """Summarise a store's tiles under the score that ranks, a block at a time.

    Parameters
    ----------
    scores
        The score store.
    order
        Names of the models to summarise, best first.
    medians
        Their CTEs.
    barred
        Names of models that may not win a tile: the degenerate ones.

    Returns
    -------
    TileSummary
        Its size does not depend on the number of tiles.
    """
    counts = scores.layout.blocks.grid.counts
    summary = TileSummary(
        tuple(order),
        counts,
        cell_counts(counts, len(order)),
        np.array([name not in barred for name in order], bool),
        np.array(medians, np.float64),
    )
    for _, values, status in blocks_of(scores, scores.layout.primary):
        models = {"model": list(order)}
        index = values.tile.to_numpy()
        summary.add(index, values.sel(models).to_numpy(), status.sel(models).to_numpy())
    return summary
