"""Instances of tiles: segmented in their frames, cut to their cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cte_dask.arrays import Array, namespace, to_numpy

if TYPE_CHECKING:
    from cte_dask.inference.segmenters import Segmenter
    from cte_dask.tiles import Frame, Shape

__all__ = ["tile_labels"]


def tile_labels(
    maps: Array,
    segmenter: Segmenter | None,
    *,
    dims: int,
    frame: Frame,
    tile: Shape,
    cut: Callable[[int, Array], Array] | None = None,
) -> Array:
    """Segment the frames of some tiles.

    Parameters
    ----------
    maps
        Maps of the segmenter for every sample, (S, C, [z,] y, x); without a segmenter the labels
        that the model gave, (S, [z,] y, x). Of a 2D model each plane of a tile is a sample.
    segmenter
        What makes instances of maps.
    dims
        Spatial axes of a sample, 2 or 3.
    frame
        Where the tile lies in what the network saw.
    tile
        Extent of a whole tile (z, y, x).
    cut
        Cuts the tile out of the labels of a sample of this number, where the frame lies otherwise
        than the tile; by default the part of the frame that is the tile.

    Returns
    -------
    ndarray of int64
        Labels (T, z, y, x) of whole tiles, 0 the background. Planes of a 2D model have ids of their
        own: an object of one plane is never the object of another.
    """
    xp = namespace(maps)
    box = tuple(slice(b, b + t) for b, t in zip(frame.before, tile, strict=True))[-dims:]
    planes = 1 if dims == 3 else tile[0]
    frames = (_labels(sample, segmenter) for sample in maps)
    cores = [w[box] if cut is None else cut(i, w) for i, w in enumerate(frames)]
    tiles = [cores[i : i + planes] for i in range(0, len(cores), planes)]
    stacked = [_distinct(xp, group) if dims == 2 else group[0] for group in tiles]
    result: Array = xp.stack(stacked).astype(xp.int64, copy=False)
    return result


def _labels(sample: Array, segmenter: Segmenter | None) -> Array:
    if segmenter is None:
        return sample
    xp = namespace(sample)
    try:
        return segmenter(sample)
    except TypeError:
        if xp.__name__ == "numpy":
            raise
        # one from outside that knows the host only: the maps of a frame go there and labels back
        host: Array = xp.asarray(segmenter(to_numpy(sample)))
        return host


def _distinct(xp: Any, planes: list[Array]) -> Array:
    """Stack planes, ids of each shifted above those of the planes before."""
    shifted, above = [], 0
    for plane in planes:
        labels = plane.astype(xp.int64)
        shifted.append(xp.where(labels > 0, labels + above, 0))
        above += int(labels.max()) if labels.size else 0
    stacked: Array = xp.stack(shifted)
    return stacked
