"""Tiles cover a target without overlap, the last is cut, and blocks hold each tile once."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.tiles import BlockGrid, TileGrid

shapes = st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40))


@st.composite
def grids(draw) -> TileGrid:
    shape = draw(shapes)
    return TileGrid(shape, tuple(draw(st.integers(1, n)) for n in shape))


@given(grids())
def test_tiles_never_overlap_and_only_small_cut_ones_are_left_out(grid):
    seen = np.zeros(grid.shape, int)
    for index in range(len(grid)):
        tile = grid.tile_at(index)
        assert tile.index == index
        seen[tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))] += 1
        assert all(2 * s >= t for s, t in zip(tile.shape, grid.tile, strict=True))
    assert seen.max(initial=0) <= 1
    for axis, (extent, tile) in enumerate(zip(grid.shape, grid.tile, strict=True)):
        left = extent - grid.counts[axis] * tile
        assert left < 0.5 * tile or left <= 0


@given(grids(), st.tuples(*[st.integers(1, 5)] * 3))
def test_blocks_hold_every_tile_once(grid, per_block):
    blocks = BlockGrid(grid, per_block)
    indices = []
    for number in range(len(blocks)):
        block = blocks.block_at(number)
        assert len(block.tiles) == blocks.tile_count(number) <= blocks.tiles_per_block
        assert block.start == block.tiles[0].start
        assert block.stop == block.tiles[-1].stop
        assert all(a.index < b.index for a, b in pairwise(block.tiles))
        indices += [t.index for t in block.tiles]
    assert sorted(indices) == list(range(len(grid)))


def test_a_petabyte_of_tiles_is_numbered_without_being_made():
    grid = TileGrid((100_000, 100_000, 100_000), (1, 256, 256))
    assert grid.tile_at(len(grid) - 1).stop == (100_000, 100_000, 100_000)
    assert len(pickle.dumps(BlockGrid(grid, (64, 8, 8)))) < 1000


@pytest.mark.parametrize(
    ("shape", "tile", "words"),
    [
        ((1, 10, 10), (1, 11, 10), "larger than the target"),
        ((1, 10, 10), (1, 0, 10), "at least 1 voxel"),
        ((0, 10, 10), (1, 1, 1), "no voxels"),
    ],
)
def test_impossible_grids_are_refused(shape, tile, words):
    with pytest.raises(ValueError, match=words):
        TileGrid(shape, tile)


def test_an_index_out_of_range_is_refused():
    with pytest.raises(IndexError, match="tile 4 of 4"):
        TileGrid((1, 4, 4), (1, 2, 2)).tile_at(4)
