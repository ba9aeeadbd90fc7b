"""The reference predictions of a whole bank on some tiles, kept until every model has seen them.

Masks take a bit a voxel; a block's tiles are taken a part at a time, so that those of all models
never exceed `MOST_BYTES`, whatever the block and the bank. What leaves are the tiles' tables of
vote patterns, and of instances how precisely one model's objects find another's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.arrays import namespace
from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.consistency.objects import average_precision
from cte_dask.consistency.vote_patterns import (
    VoteTables,
    core_bits,
    no_votes,
    packed,
    vote_tables,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.outputs import Prediction
    from cte_dask.tiles import Shape

__all__ = ["BankVotes", "bytes_of_tile", "kept_bytes", "parts_of"]

MOST_BYTES = 2**28


def bytes_of_tile(models: int, tile: Shape, *, instances: bool) -> int:
    """Return the bytes of all models' masks (and labels) of a tile.

    Parameters
    ----------
    models
        Their number.
    tile
        Extent of a whole tile (z, y, x).
    instances
        Whether labels are kept, too.
    """
    return -(-models * (1 + 32 * instances) * math.prod(tile) // 8)


def kept_bytes(tiles: int, bytes_each: int) -> int:
    """Return the most that is kept at a time, in bytes.

    Parameters
    ----------
    tiles
        Number of tiles of the largest slab of a block (`cte_dask.scoring.block_reader`).
    bytes_each
        From `bytes_of_tile`.
    """
    return max(bytes_each, min(MOST_BYTES, tiles * bytes_each))


def parts_of(tiles: NDArray[np.int64], bytes_each: int) -> Iterator[NDArray[np.int64]]:
    """Cut the tiles of a block into parts whose kept predictions fit.

    Parameters
    ----------
    tiles
        Places of the tiles in the block.
    bytes_each
        From `bytes_of_tile`.
    """
    size = max(1, MOST_BYTES // bytes_each)
    for low in range(0, len(tiles), size):
        yield tiles[low : low + size]


class BankVotes:
    """Masks (and labels) of every model on some tiles, on the device.

    Parameters
    ----------
    models, tiles
        Their numbers.
    extent
        Of a whole tile (z, y, x).
    """

    def __init__(self, models: int, tiles: int, extent: Shape) -> None:
        self.extent = extent
        self.masks: list[Any] = [None] * models
        self.labels: list[Any] = [None] * models
        self.voted = np.zeros((tiles, models), bool)
        self.cores: list[tuple[slice, ...]] = [(slice(0, 0),) * 3] * tiles

    def keep(
        self,
        model: int,
        places: Sequence[int],
        reference: Prediction,
        *,
        cores: Sequence[tuple[slice, ...]],
        threshold: float,
        valid: NDArray[np.bool_],
    ) -> None:
        """Keep what a model predicts on some tiles.

        Parameters
        ----------
        model
            Its number.
        places
            Places of the tiles in the block.
        reference
            Its unperturbed predictions of them.
        cores
            Their scored parts.
        threshold
            Probability above which a voxel is foreground.
        valid
            Which of them have a prediction that counts, bool (place,).
        """
        words = packed(reference.foreground, cores=cores, threshold=threshold)
        self.masks[model] = _put(self.masks[model], words, places, size=len(self.voted))
        if reference.labels is not None:
            labels = reference.labels.astype("int32")
            self.labels[model] = _put(self.labels[model], labels, places, size=len(self.voted))
        self.voted[places, model] = valid
        for tile, core in zip(places, cores, strict=True):
            self.cores[tile] = core

    def forget(self, model: int) -> None:
        """Drop what a model gave: it failed later."""
        self.masks[model] = self.labels[model] = None
        self.voted[:, model] = False

    def tables(self) -> VoteTables:
        """Return the vote patterns of the tiles."""
        tiles, models = self.voted.shape
        present = [m for m in self.masks if m is not None]
        if not present:
            return no_votes(tiles, models)
        xp = namespace(*present)
        nothing = xp.zeros_like(present[0])
        masks = xp.stack([nothing if m is None else m for m in self.masks])
        return vote_tables(masks, core_bits(self.extent, self.cores), self.voted)

    def precision(self) -> NDArray[np.float64]:
        """Return the average precision of each pair's objects on each tile, (pair, tile).

        NaN where a model is missing, or neither has an object.
        """
        tiles, models = self.voted.shape
        rows = np.full((models * (models - 1) // 2, tiles), np.nan)
        for row, (i, j) in enumerate(pairs_of(models)):
            for tile in np.flatnonzero(self.voted[:, i] & self.voted[:, j]):
                core = self.cores[tile]
                rows[row, tile] = average_precision(
                    self.labels[i][tile][core], self.labels[j][tile][core]
                )
        return rows


def _put(array: Any, values: Any, places: Sequence[int], *, size: int) -> Any:
    """Put tiles into an array of all of them, made when first needed."""
    xp = namespace(values)
    if array is None:
        array = xp.zeros((size, *values.shape[1:]), dtype=values.dtype)
    array[xp.asarray(places)] = values
    return array
