"""Frames: the box that a model reads around a tile. Integer geometry, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from cte_dask.tiles import Shape

__all__ = ["Frame", "frame_of"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a model reads for one tile: the tile with its halo, at an extent the network accepts.

    Parameters
    ----------
    before
        Voxels of context before the tile's start (z, y, x).
    shape
        Extent in voxels (z, y, x); what is left after tile and halo lies behind the tile.
    """

    before: Shape
    shape: Shape

    @property
    def after(self) -> Shape:
        """Voxels of the frame from the tile's start on (z, y, x)."""
        z, y, x = (s - b for s, b in zip(self.shape, self.before, strict=True))
        return z, y, x


def frame_of(tile: Shape, *, halo: Shape, multiple: Shape) -> Frame:
    """Return the frame of a whole tile.

    Parameters
    ----------
    tile
        Extent of a whole tile (z, y, x). Cut tiles use the same frame, so shapes never vary.
    halo
        Context a side, voxels (z, y, x).
    multiple
        The network's input extents must be multiples of this (z, y, x).

    Examples
    --------
    >>> frame_of((1, 100, 100), halo=(0, 16, 16), multiple=(1, 8, 8))
    Frame(before=(0, 16, 16), shape=(1, 136, 136))
    """
    z, y, x = (-(-(t + 2 * h) // m) * m for t, h, m in zip(tile, halo, multiple, strict=True))
    return Frame(halo, (z, y, x))
