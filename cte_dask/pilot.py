"""The pilot: a few tiles spread over a target of any size, never the list of them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cte_dask.experiment import Experiment

__all__ = ["pilot_indices"]

TRIES = 16


def pilot_indices(experiment: Experiment, count: int) -> tuple[int, ...]:
    """Draw tiles at random, one from each of `count` equal parts of the target.

    The parts are runs of tiles in C order, so that slabs, or bands of rows of one plane, are all
    represented; within a part any tile may be drawn. Where there is a mask, up to 16 tiles of a
    part are tried, and a part in which none of them holds a voxel of the mask gives no tile.

    Parameters
    ----------
    experiment
        Its grid, seed and mask; the cut into blocks does not matter.
    count
        Tiles wanted; a target of fewer gives all of them.

    Returns
    -------
    tuple of int
        Numbers of tiles, ascending.
    """
    total = len(experiment.grid)
    count = min(count, total)
    rng = np.random.default_rng(experiment.seed)
    found = []
    for part in range(count):
        low, high = part * total // count, (part + 1) * total // count
        tried = dict.fromkeys(int(i) for i in rng.integers(low, high, size=TRIES))
        chosen = next((i for i in tried if _inside(experiment, i)), None)
        if chosen is not None:
            found.append(chosen)
    return tuple(found)


def _inside(experiment: Experiment, index: int) -> bool:
    tile = experiment.grid.tile_at(index)
    mask = experiment.volume.read_mask(tile.start, tile.stop)
    return mask is None or bool(mask.any())
