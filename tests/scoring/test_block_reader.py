"""Slabs: every tile sees its voxels, chunks are read once, memory is bounded, reads hide."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import zarr
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from streams import EarlyCopies, LateCopies

from cte_dask.inference.device import Uploads
from cte_dask.scoring import block_reader as slabs
from cte_dask.scoring.block_reader import slabs_of, windows
from cte_dask.tiles import BlockGrid, TileGrid
from cte_dask.volume import open_volume

triples = st.tuples


@pytest.fixture
def reads(monkeypatch):
    """Chunks read, by key."""
    seen: list[str] = []
    original = zarr.storage.LocalStore.get

    async def counted(self, key, *args, **kwargs):
        value = await original(self, key, *args, **kwargs)
        if "/c/" in f"/{key}" and value is not None:
            seen.append(key)
        return value

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    return seen


@given(
    shape=triples(st.integers(1, 24), st.integers(8, 40), st.integers(8, 24)),
    tile=triples(st.integers(1, 5), st.integers(3, 8), st.integers(3, 8)),
    chunks=triples(st.integers(1, 7), st.integers(2, 12), st.integers(4, 24)),
    per_block=triples(st.integers(1, 24), st.integers(1, 12), st.integers(1, 3)),
    margins=triples(*[triples(*[st.integers(0, 5)] * 3)] * 2),
    origin=triples(*[st.integers(0, 5)] * 3),
    most=st.sampled_from([1, 500, 4000, 2**25]),
)
@examples(40)
def test_every_tile_sees_its_voxels(
    tmp_path_factory, shape, tile, chunks, per_block, margins, origin, most
):
    whole = tuple(n + o for n, o in zip(shape, origin, strict=True))
    chunks = tuple(min(c, n) for c, n in zip(chunks, whole, strict=True))
    tile = tuple(min(t, n) for t, n in zip(tile, shape, strict=True))
    path = tmp_path_factory.mktemp("slabs") / "image.zarr"
    image = np.random.default_rng(0).integers(1, 2**16, whole).astype(np.uint16)
    zarr.create_array(path, data=image, chunks=chunks)
    volume = open_volume(str(path), roi=",".join(f"{o}:" for o in origin))
    blocks = BlockGrid(TileGrid(shape, tile), per_block)
    before, after = margins
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "MOST_BYTES", most)
        patch.setattr(slabs, "LEAST_BYTES", 1)
        for index in sorted({0, len(blocks) // 2, len(blocks) - 1}):
            block, seen = blocks.block_at(index), []
            for places, window in windows(volume, block, tile, margins, device="cpu"):
                for at in range(places.start, places.stop):
                    low = [s - b for s, b in zip(block.tiles[at].start, before, strict=True)]
                    extent = [t + b + a for t, b, a in zip(tile, before, after, strict=True)]
                    (frame,) = window.frame(tuple(low), tuple(extent))
                    np.testing.assert_array_equal(frame, box(image, low, extent, origin))
                    seen.append(at)
            assert seen == list(range(len(block.tiles)))


def box(image, low, extent, origin) -> np.ndarray:
    """The voxels of a box, reflected at the edges of the array."""
    first = [a + o for a, o in zip(low, origin, strict=True)]
    last = [a + n for a, n in zip(first, extent, strict=True)]
    widths = [(max(0, -a), max(0, b - n)) for a, b, n in zip(first, last, image.shape, strict=True)]
    padded = np.pad(image, widths, mode="reflect")
    cut = zip(first, last, widths, strict=True)
    return padded[tuple(slice(a + before, b + before) for a, b, (before, _) in cut)]


@pytest.mark.parametrize(("axis", "shape"), [(0, (64, 32, 32)), (1, (1, 256, 32))])
def test_a_block_is_cut_where_chunks_end_and_read_once(tmp_path, reads, monkeypatch, axis, shape):
    path = tmp_path / "image.zarr"
    chunks, tile = ((8, 16, 16), (1, 16, 16)) if axis == 0 else ((1, 32, 16), (1, 16, 16))
    image = np.random.default_rng(0).integers(1, 255, shape).astype(np.uint8)
    zarr.create_array(path, data=image, chunks=chunks)
    volume = open_volume(str(path))
    block = BlockGrid(TileGrid(shape, tile), (64, 64, 64)).block_at(0)
    margins = (0, 8, 8), (0, 8, 8)
    monkeypatch.setattr(slabs, "MOST_BYTES", 20_000)
    monkeypatch.setattr(slabs, "LEAST_SLABS", 8)
    monkeypatch.setattr(slabs, "LEAST_BYTES", 1)
    found = slabs_of(volume, block, tile, margins)
    assert len(found) >= 4
    assert all(slab.axis == axis for slab in found)
    assert all(slab.high % chunks[axis] == 0 for slab in found[:-1])
    for places, window in windows(volume, block, tile, margins, device="cpu"):
        assert window.voxels.nbytes <= 20_000
        assert places.stop > places.start
    assert (
        len(reads)
        == len(set(reads))
        == math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    )


def test_the_next_slab_is_read_while_one_is_scored(tmp_path, monkeypatch):
    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=np.ones((64, 32, 32), np.uint8), chunks=(8, 32, 32))
    tile, margins = (1, 32, 32), ((0, 0, 0), (0, 0, 0))
    block = BlockGrid(TileGrid((64, 32, 32), tile), (64, 1, 1)).block_at(0)
    monkeypatch.setattr(slabs, "LEAST_BYTES", 1)
    done = [threading.Event() for _ in range(9)]
    original, count = slabs.read_box, iter(range(8))

    def noted(*where):
        box = original(*where)
        done[next(count)].set()
        return box

    monkeypatch.setattr(slabs, "read_box", noted)
    scored = 0
    parts = windows(open_volume(str(path)), block, tile, margins, device="cpu")
    for number, _ in enumerate(parts):
        # while this slab is looked at, the next one comes without being asked for
        assert number == 1 or done[number + 1].wait(30)
        scored += 1
    assert scored == 2
    assert not done[2].is_set(), "each is read once, and none beyond"


def test_a_terabyte_is_read_in_slabs_as_small_as_those_of_a_gigabyte(tmp_path):
    from cte_dask.scoring.block_size import plan_blocks

    tile, margins = (1, 256, 256), ((0, 46, 46), (0, 46, 46))
    most = []
    for number, edge in enumerate((1024, 10240)):
        path = tmp_path / f"{number}.zarr"
        zarr.create_array(path, shape=(edge,) * 3, chunks=(64, 128, 128), dtype="uint8")
        volume = open_volume(str(path))
        grid = TileGrid(volume.shape, tile)
        blocks = BlockGrid(grid, plan_blocks(grid, volume.read_unit, workers=2))
        found = slabs_of(volume, blocks.block_at(len(blocks) // 2), tile, margins)
        across = math.prod(n + 92 for n in blocks.block_shape[1:])
        most.append(max((s.high - s.first) * across for s in found))
        assert len(found) >= 2
    assert max(most) <= slabs.MOST_BYTES
    assert max(most) < 1.5 * min(most)


@pytest.mark.parametrize("copies", [LateCopies, EarlyCopies])
def test_slabs_reach_a_device_through_two_buffers_and_none_too_early(tmp_path, monkeypatch, copies):
    """Streams run late here, so that a window that is overwritten too early shows."""
    image = np.random.default_rng(0).integers(1, 255, (64, 32, 32)).astype(np.uint8)
    zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(8, 32, 32))
    volume = open_volume(str(tmp_path / "image.zarr"))
    tile, margins = (1, 32, 32), ((0, 0, 0), (0, 0, 0))
    block = BlockGrid(TileGrid(image.shape, tile), (64, 1, 1)).block_at(0)
    monkeypatch.setattr(slabs, "LEAST_BYTES", 1)
    monkeypatch.setattr(slabs, "LEAST_SLABS", 8)
    streams, seen = copies(), []
    monkeypatch.setattr(slabs, "uploads_to", lambda _device: Uploads(streams))
    parts = last = 0
    for places, window in windows(volume, block, tile, margins, device="cuda"):
        parts, last = parts + 1, places.stop
        streams.computing.add(lambda w=window: seen.append(w.voxels.copy()))
    streams.computing.run(len(streams.computing.work))
    assert (parts, last, streams.buffers) == (8, 64, 2)
    np.testing.assert_array_equal(np.concatenate(seen, axis=1)[0], image)
