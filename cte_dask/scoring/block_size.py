"""How a target is cut into blocks: aligned to its chunks, of seconds of work each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cte_dask.tiles import Shape, TileGrid

__all__ = ["plan_blocks"]

LEAST_BLOCK_VOXELS = 2**22
MOST_BLOCK_VOXELS = 2**29
MOST_SLAB_VOXELS = 2**25  # one layer of chunks along z: what a worker must hold at least
BLOCKS_PER_VOXEL = 2000 / 2**40
MOST_DRAWN_BLOCKS = 2**20  # about: a store and an order of them take little memory
BLOCKS_PER_WORKER = 8  # for balance, progress and resuming
LEAST_PLENTY = 64
LEAST_BLOCKS_PER_WORKER = 2  # worth cutting chunks for


def plan_blocks(grid: TileGrid, unit: Shape, *, workers: int, drawn: bool = False) -> Shape:
    """Choose the tiles of a block: whole chunks (or shards), enough blocks for the workers.

    Where blocks are drawn until a question is decided, each tells mostly what its place tells, and
    a large one little more than a small one: they are as small as is worth a task.

    Parameters
    ----------
    grid
        The tiles.
    unit
        Voxels that are read together (z, y, x): a chunk, or a shard.
    workers
        Number of workers to keep busy.
    drawn
        Whether some blocks are drawn, rather than all scored.

    Returns
    -------
    tuple of int
        Tiles of a block along z, y and x.
    """
    per_block = [_aligned(t, u) for t, u in zip(grid.tile, unit, strict=True)]
    per_block = [min(c, n) for c, n in zip(per_block, grid.counts, strict=True)]
    total = math.prod(grid.shape)
    # blocks that a target of this size should have, none smaller than is worth a task
    number = MOST_DRAWN_BLOCKS if drawn else max(total * BLOCKS_PER_VOXEL, 1)
    number = min(number, total / LEAST_BLOCK_VOXELS)
    target = min(max(total / max(number, 1), LEAST_BLOCK_VOXELS), MOST_BLOCK_VOXELS)
    # half of what a terabyte may have: growing doubles, and must not stop above the whole
    plenty = max(total * BLOCKS_PER_VOXEL / 2, LEAST_PLENTY)
    deep = max(grid.tile[0], unit[0])
    _grow(
        per_block,
        grid,
        target=target,
        deep=deep,
        least_blocks=min(BLOCKS_PER_WORKER * workers, plenty),
    )
    least = LEAST_BLOCKS_PER_WORKER * workers if workers > 1 else 1
    while _number(per_block, grid) < least and max(per_block) > 1:
        # better to read a chunk twice than to leave a worker idle
        axis = max(range(3), key=lambda i: per_block[i])
        per_block[axis] = -(-per_block[axis] // 2)
    return per_block[0], per_block[1], per_block[2]


def _aligned(tile: int, unit: int) -> int:
    """Tiles that make up whole chunks, or the fewest that cover one where they never fit."""
    common = math.lcm(tile, unit)
    return common // tile if common <= 4 * max(tile, unit) else -(-unit // tile)


def _grow(
    per_block: list[int], grid: TileGrid, *, target: float, deep: int, least_blocks: float
) -> None:
    """Double the shortest axis while a block, and where z can grow a slab, stays small enough."""

    def doubled(axis: int) -> list[int]:
        return [min(c * (2 if i == axis else 1), grid.counts[i]) for i, c in enumerate(per_block)]

    def thin(axis: int) -> bool:
        _, y, x = (c * t for c, t in zip(doubled(axis), grid.tile, strict=True))
        return axis == 0 or deep * y * x <= MOST_SLAB_VOXELS

    while True:
        options = [i for i in (2, 1, 0) if per_block[i] < grid.counts[i]]
        if not options:
            return
        options = [i for i in options if thin(i)] or options
        axis = min(options, key=lambda i: per_block[i] * grid.tile[i])
        grown = doubled(axis)
        voxels = math.prod(c * t for c, t in zip(grown, grid.tile, strict=True))
        if voxels > target or _number(grown, grid) < least_blocks:
            return
        per_block[:] = grown


def _number(per_block: Sequence[int], grid: TileGrid) -> int:
    return math.prod(-(-n // c) for n, c in zip(grid.counts, per_block, strict=True))
