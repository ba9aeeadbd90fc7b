"""Tiles and blocks: the integer geometry of a target, without any I/O.

A **tile** is one scored box; tiles lie on a regular grid from the origin, do not overlap, and the
last one along an axis is cut. A **block** is a box of whole tiles: the unit of work that reads the
target once. Both are numbered in C order, so an index alone finds them and no list of a petabyte's
tiles is ever made.

A **frame** is the box that a model reads around a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

__all__ = ["Block", "BlockGrid", "Frame", "Scale", "Shape", "Tile", "TileGrid", "frame_of"]

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Tile:
    """One scored box of the target.

    Parameters
    ----------
    index
        C-order number of the tile in its grid; seeds are keyed by it.
    start, stop
        Corners in voxels (z, y, x), relative to the region of interest; ``stop`` is exclusive.
    """

    index: int
    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        """Extent in voxels (z, y, x)."""
        return _subtract(self.stop, self.start)


@dataclass(frozen=True, slots=True)
class Block:
    """A box of whole tiles, read and scored together.

    Parameters
    ----------
    index
        C-order number of the block in its grid.
    tiles
        The scored tiles inside, in C order of the tile grid.
    start, stop
        Corners in voxels (z, y, x); ``stop`` is exclusive.
    """

    index: int
    tiles: tuple[Tile, ...]
    start: Shape
    stop: Shape


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The regular grid of tiles over a target.

    Parameters
    ----------
    shape
        Extent of the target in voxels (z, y, x).
    tile
        Extent of a whole tile in voxels (z, y, x), at most ``shape`` on every axis.
    keep_cut
        Least fraction of a tile's extent that a cut tile must have along every axis to be scored.

    Raises
    ------
    ValueError
        If an extent is not positive or the tile is larger than the target.

    Examples
    --------
    >>> grid = TileGrid((1, 100, 70), (1, 32, 32))
    >>> grid.counts, len(grid)
    ((1, 3, 2), 6)
    >>> grid.tile_at(5)
    Tile(index=5, start=(0, 64, 32), stop=(1, 96, 64))
    """

    shape: Shape
    tile: Shape
    keep_cut: float = 0.5

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"the target has no voxels: shape {self.shape} (z, y, x)")
        if min(self.tile) < 1:
            raise ValueError(f"tile {self.tile} must be at least 1 voxel along z, y and x")
        if any(t > s for t, s in zip(self.tile, self.shape, strict=True)):
            raise ValueError(
                f"tile {self.tile} is larger than the target {self.shape} (z, y, x): "
                "choose a smaller --tile or a larger region"
            )

    @property
    def counts(self) -> Shape:
        """Number of scored tiles along z, y and x."""
        z, y, x = (self._count(s, t) for s, t in zip(self.shape, self.tile, strict=True))
        return z, y, x

    def _count(self, extent: int, tile: int) -> int:
        count, rest = divmod(extent, tile)
        return count + (rest > 0 and rest >= self.keep_cut * tile)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def tile_at(self, index: int) -> Tile:
        """Return the tile with this C-order number.

        Raises
        ------
        IndexError
            If there is no such tile.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of {len(self)}")
        return self._tile(_unravel(index, self.counts))

    def _tile(self, position: Shape) -> Tile:
        start = _multiply(position, self.tile)
        stop = _minimum(_add(start, self.tile), self.shape)
        return Tile(_ravel(position, self.counts), start, stop)

    def tiles_in(self, low: Shape, high: Shape) -> Iterator[Tile]:
        """Yield the tiles whose grid positions lie in ``[low, high)``, in C order."""
        ranges = (range(a, min(b, n)) for a, b, n in zip(low, high, self.counts, strict=True))
        for z, y, x in product(*ranges):
            yield self._tile((z, y, x))


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """The grid of blocks: boxes of ``per_block`` tiles of a tile grid.

    Parameters
    ----------
    grid
        The tiles.
    per_block
        Tiles of a whole block along z, y and x.

    Raises
    ------
    ValueError
        If a block would hold no tile along an axis.
    """

    grid: TileGrid
    per_block: Shape

    def __post_init__(self) -> None:
        if min(self.per_block) < 1:
            raise ValueError(f"a block needs at least one tile along every axis: {self.per_block}")

    @property
    def counts(self) -> Shape:
        """Number of blocks along z, y and x."""
        z, y, x = (-(-n // p) for n, p in zip(self.grid.counts, self.per_block, strict=True))
        return z, y, x

    def __len__(self) -> int:
        return math.prod(self.counts)

    @property
    def block_shape(self) -> Shape:
        """Extent of a whole block in voxels (z, y, x)."""
        return _minimum(_multiply(self.per_block, self.grid.tile), self.grid.shape)

    @property
    def tiles_per_block(self) -> int:
        """Number of tiles in a whole block."""
        return math.prod(_minimum(self.per_block, self.grid.counts))

    def tile_count(self, index: int) -> int:
        """Return the number of tiles in one block without making them."""
        low = _multiply(self._position(index), self.per_block)
        high = _minimum(_add(low, self.per_block), self.grid.counts)
        return math.prod(_subtract(high, low))

    def block_at(self, index: int) -> Block:
        """Return the block with this C-order number and its tiles.

        Raises
        ------
        IndexError
            If there is no such block.
        """
        low = _multiply(self._position(index), self.per_block)
        high = _add(low, self.per_block)
        tiles = tuple(self.grid.tiles_in(low, high))
        return Block(index, tiles, tiles[0].start, tiles[-1].stop)

    def _position(self, index: int) -> Shape:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        return _unravel(index, self.counts)


def _unravel(index: int, counts: Shape) -> Shape:
    rest, x = divmod(index, counts[2])
    z, y = divmod(rest, counts[1])
    return z, y, x


def _ravel(position: Shape, counts: Shape) -> int:
    return (position[0] * counts[1] + position[1]) * counts[2] + position[2]


def _add(a: Shape, b: Shape) -> Shape:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _subtract(a: Shape, b: Shape) -> Shape:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _multiply(a: Shape, b: Shape) -> Shape:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


def _minimum(a: Shape, b: Shape) -> Shape:
    return min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2])


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
    extent = math.ceil(math.ceil((tile + 2 * before) * scale) / multiple) * multiple
    # rounding may lose a voxel of the target: one more multiple, until tile and halo fit
    while round(extent / scale) < tile + 2 * before:
        extent += multiple
    return before, round(extent / scale), extent
