"""Who is consistent only because it predicts nothing or everything, as blocks come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.consistency.degenerate import FOREGROUND_FLAG, NAN_FRACTION_FLAG
from cte_dask.engine.racing.race import ASIDE_SHARE
from cte_dask.engine.racing.surplus import Surplus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.engine.racing.order import Round

__all__ = ["SURELY_EMPTY", "BlockTiles", "Watch"]

SURELY_EMPTY = 0.8
"""A model that is flagged for predicting nothing is set aside once this part surely is empty."""


@dataclass(frozen=True, slots=True)
class BlockTiles:
    """What a race needs of a block's tiles.

    Parameters
    ----------
    values
        Consistencies (model, tile); NaN where a tile says nothing or was not scored.
    scored
        Whether a tile was scored (model, tile).
    foreground
        Fraction of its voxels that the reference prediction takes as foreground (model, tile).
    """

    values: NDArray[np.float64]
    scored: NDArray[np.bool_]
    foreground: NDArray[np.float64]


class Watch:
    """Degenerate models: `flagged` on what was read, `aside` if it surely holds of the target.

    A model that predicts everything is set aside when it surely does so on half of all tiles, which
    is what its flag means. One that predicts nothing on 95 % of the tiles read is set aside when it
    surely predicts nothing on `SURELY_EMPTY` of all: to tell 95 % from 94 % takes hundreds of
    blocks. At an error of 0.4 % the first takes some ten blocks, the second some thirty.

    Parameters
    ----------
    models
        Their number.
    tiles_per_block
        Tiles of a whole block.
    delta, places
        Of the race: the part of its error that is for setting models aside is used here.
    """

    def __init__(self, models: int, *, tiles_per_block: int, delta: float, places: int) -> None:
        self.tiles_per_block = tiles_per_block
        error = delta * ASIDE_SHARE / 2 / places
        self._nothing = Surplus(models, least=SURELY_EMPTY, error=error)
        self._everything = Surplus(models, least=0.5, error=error)
        self._sums = np.zeros((2, models))

    @property
    def aside(self) -> NDArray[np.bool_]:
        """Models that are flagged, and surely no good, (model,)."""
        nothing = (self._sums[0] >= 0) & self._nothing.proven
        everything = (self._sums[1] >= 0) & self._everything.proven
        aside: NDArray[np.bool_] = nothing | everything
        return aside

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Models that are degenerate on the blocks read, (model,)."""
        flagged: NDArray[np.bool_] = np.any(self._sums >= 0, axis=0)
        return flagged

    def observe(self, drawn: Round, blocks: Sequence[BlockTiles]) -> None:
        """Take in a round."""
        empty = np.array([self._block_fraction(b.scored & np.isnan(b.values)) for b in blocks])
        full = np.array(
            [self._block_fraction(b.scored & (b.foreground >= FOREGROUND_FLAG)) for b in blocks]
        )
        scored = np.array([self._block_fraction(b.scored) for b in blocks])
        nothing = empty - NAN_FRACTION_FLAG * scored
        everything = full - 0.5 * scored
        self._nothing.observe(drawn, empty - SURELY_EMPTY * scored)
        self._everything.observe(drawn, everything)
        self._sums = self._sums + np.stack([nothing.sum(axis=0), everything.sum(axis=0)])

    def _block_fraction(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        fraction: NDArray[np.float64] = mask.sum(axis=1) / self.tiles_per_block
        return fraction
