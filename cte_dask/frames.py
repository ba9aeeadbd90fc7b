"""Frames: the box that a model reads around a tile. Integer geometry, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cte_dask.tiles import Shape

__all__ = ["Frame", "Scale", "frame_of"]

Scale = tuple[float, float, float]
SAME: Scale = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a model reads for one tile: the tile with its halo, at an extent the network accepts.

    Parameters
    ----------
    before
        Voxels of context before the tile's start (z, y, x).
    shape
        Extent in voxels of the target (z, y, x); what is left after tile and halo lies behind the
        tile.
    extent
        Extent that the network sees (z, y, x): `shape`, unless the model resamples.
    """

    before: Shape
    shape: Shape
    extent: Shape

    @property
    def after(self) -> Shape:
        """Voxels of the frame from the tile's start on (z, y, x)."""
        z, y, x = (s - b for s, b in zip(self.shape, self.before, strict=True))
        return z, y, x


def frame_of(tile: Shape, *, halo: Shape, multiple: Shape, scale: Scale = SAME) -> Frame:
    """Return the frame of a whole tile.

    Parameters
    ----------
    tile
        Extent of a whole tile (z, y, x). Cut tiles use the same frame, so shapes never vary.
    halo
        Context a side, voxels of the network (z, y, x).
    multiple
        The network's input extents must be multiples of this (z, y, x).
    scale
        Voxels of the network per voxel of the target (z, y, x); 1 where nothing is resampled.

    Examples
    --------
    >>> frame_of((1, 100, 100), halo=(0, 16, 16), multiple=(1, 8, 8))
    Frame(before=(0, 16, 16), shape=(1, 136, 136), extent=(1, 136, 136))
    >>> frame_of((1, 100, 100), halo=(0, 16, 16), multiple=(1, 8, 8), scale=(1, 0.5, 0.5))
    Frame(before=(0, 32, 32), shape=(1, 176, 176), extent=(1, 88, 88))
    """
    axes = zip(tile, halo, multiple, scale, strict=True)
    (z, y, x) = (_axis(t, h, m, s) for t, h, m, s in axes)
    return Frame((z[0], y[0], x[0]), (z[1], y[1], x[1]), (z[2], y[2], x[2]))


def _axis(tile: int, halo: int, multiple: int, scale: float) -> Shape:
    """Return context before, voxels read and voxels seen, along one axis."""
    before = math.ceil(halo / scale)
    seen = math.ceil(math.ceil((tile + 2 * before) * scale) / multiple) * multiple
    while round(seen / scale) < tile + 2 * before:
        seen += multiple
    return before, round(seen / scale), seen
