"""Features of a tile at sampled voxels: what CCFV needs of one prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.ccfv import TileFeatures, tile_features
from cte_dask.decoders import features_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.decoders import Captured
    from cte_dask.predict import Predictor
    from cte_dask.tiles import Tile

__all__ = ["FEWEST_VOXELS", "drawn_voxels", "sampled_features"]

FEWEST_VOXELS = 64
"""Labelled voxels that a tile needs for its features to be looked at by CCFV."""

SAMPLED = 400
"""Voxels looked at in the finest decoder layer; half as many one deeper."""


def drawn_voxels(
    tile: Tile, truth: NDArray[Any], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw voxels of a tile: the same ones for every model.

    Parameters
    ----------
    tile
        The tile.
    truth
        Its labels (z, y, x).
    seed
        Of the drawing, together with the tile's number.

    Returns
    -------
    tuple of ndarray of int64
        Voxels (n, 3) of the labelled foreground, without replacement, and of the whole tile.
    """
    rng = np.random.default_rng((seed, tile.index))
    inside = np.argwhere(truth > 0)
    inside = inside[rng.permutation(len(inside))[:SAMPLED]]
    return inside, np.stack([rng.integers(0, s, SAMPLED) for s in tile.shape], axis=1)


def sampled_features(
    ready: Predictor,
    kept: Captured,
    number: int,
    drawn: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[TileFeatures, ...]:
    """Return what CCFV needs of a tile, a `TileFeatures` a layer, deepest first.

    Parameters
    ----------
    ready
        The model.
    kept
        What its decoder layers gave for some tiles.
    number
        Which of them is meant.
    drawn
        From `drawn_voxels`. A deeper layer gets the first of them, half as many as the finer one:
        its features are coarser ("to avoid feature redundancy", sec. 2.2 of the paper).

    Returns
    -------
    tuple of TileFeatures
    """
    found = []
    for layer in range(len(kept.maps)):
        most = max(FEWEST_VOXELS, SAMPLED >> (len(kept.maps) - 1 - layer))
        inside, everywhere = (
            _at(ready, kept, layer, number, voxels=voxels[:most]) for voxels in drawn
        )
        found.append(tile_features(inside, everywhere))
    return tuple(found)


def _at(
    ready: Predictor, kept: Captured, layer: int, number: int, *, voxels: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return a layer's features at voxels (n, 3) of the `number`-th tile, (n, C)."""
    frame, dims = ready.frame, ready.spec.dims
    places = (voxels + frame.before + 0.5) / np.array(frame.shape)
    if dims == 3:
        return features_at(kept.sample(layer, number), places)
    planes = np.unique(voxels[:, 0])
    first = number * ready.tile[0]
    parts = [
        features_at(kept.sample(layer, first + int(z)), places[voxels[:, 0] == z, 1:])
        for z in planes
    ]
    return np.concatenate(parts)
