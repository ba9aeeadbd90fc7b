"""Reading boxes: real neighbours inside the array, reflection beyond it, each chunk once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.storage import MemoryStore, WrapperStore

from cte_dask.volume import Volume, open_volume

extents = st.integers(1, 9)


@st.composite
def targets(draw: st.DrawFn) -> tuple[Volume, NDArray[Any]]:
    """Draw an array in memory, however chunked, sharded and named, with a region of interest."""
    shape = tuple(draw(extents) for _ in range(3))
    chunks = tuple(draw(extents) for _ in range(3))
    shards = tuple(c * draw(st.integers(1, 2)) for c in chunks) if draw(st.booleans()) else None
    data = np.random.default_rng(len(chunks)).integers(1, 255, shape).astype(np.uint8)
    array = zarr.create_array(
        MemoryStore(), shape=shape, dtype=data.dtype, chunks=chunks, shards=shards
    )
    array[...] = data
    lows = [draw(st.integers(0, n - 1)) for n in shape]
    roi = [slice(low, draw(st.integers(low + 1, n))) for low, n in zip(lows, shape, strict=True)]
    return open_volume(array, roi=roi), data


@given(targets(), st.data())
@examples(60)
def test_reading_equals_padding_the_whole_array_by_reflection(
    target: tuple[Volume, NDArray[Any]], data: st.DataObject
) -> None:
    volume, array = target
    reach = 25
    start = [data.draw(st.integers(-reach, reach - 1)) for _ in range(3)]
    stop = [data.draw(st.integers(low + 1, reach)) for low in start]
    padded = np.pad(array, 40, mode="reflect")
    box = tuple(
        slice(low + origin + 40, high + origin + 40)
        for low, high, origin in zip(start, stop, volume.origin, strict=True)
    )
    np.testing.assert_array_equal(volume.read(start, stop), padded[box])


def test_an_empty_or_malformed_box_is_refused(voxels: NDArray[Any]) -> None:
    volume = open_volume(voxels)
    with pytest.raises(ValueError, match="empty box"):
        volume.read((0, 0, 0), (1, 0, 1))
    with pytest.raises(ValueError, match="has 2 entries"):
        volume.read((0, 0), (1, 1))
    with pytest.raises(ValueError, match="reaches out of the array"):
        volume.missing_chunks((0, 0, 0), (7, 1, 1))
    with pytest.raises(ValueError, match="reaches out of the array"):
        volume.read_mask((-1, 0, 0), (1, 1, 1))


class Counting(WrapperStore[Any]):
    """A store that notes the keys of its requests."""

    def __init__(self, store: Any, requests: list[str] | None = None) -> None:
        super().__init__(store)
        self.requests = [] if requests is None else requests

    def _with_store(self, store: Any) -> Counting:
        # zarr makes itself a read-only copy, which is to count for this one
        return Counting(store, self.requests)

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.requests.append(key)
        return await super().get(key, *args, **kwargs)


def counted(data: NDArray[Any], **options: Any) -> tuple[Volume, Counting]:
    store = Counting(MemoryStore())
    array = zarr.create_array(store, shape=data.shape, dtype=data.dtype, **options)
    array[...] = data
    volume = open_volume(array)
    volume.read((0, 0, 0), (1, 1, 1))
    store.requests.clear()
    return volume, store


def test_an_aligned_read_asks_for_each_chunk_once_and_nothing_else(voxels: NDArray[Any]) -> None:
    volume, store = counted(voxels, chunks=(3, 5, 13))
    volume.read((0, 5, 0), (6, 15, 26))
    keys = [f"c/{z}/{y}/{x}" for z in (0, 1) for y in (1, 2) for x in (0, 1)]
    assert sorted(store.requests) == keys


def test_an_aligned_read_asks_for_each_shard_once(voxels: NDArray[Any]) -> None:
    volume, store = counted(voxels, chunks=(1, 5, 13), shards=(3, 10, 26))
    volume.read((0, 0, 0), (6, 10, 26))
    assert sorted(store.requests) == ["c/0/0/0", "c/1/0/0"]


def test_reflection_reads_nothing_twice(voxels: NDArray[Any]) -> None:
    volume, store = counted(voxels, chunks=(3, 5, 13))
    volume.read((-30, -30, -30), (40, 60, 70))
    assert len(store.requests) == len(set(store.requests)) == 2 * 4 * 2


def test_a_volume_is_opened_once_however_many_threads_read(
    voxels: NDArray[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from cte_dask.volume import zarr_source

    zarr.array(voxels, store=tmp_path / "a", chunks=(3, 5, 13))
    volume = open_volume(tmp_path / "a")
    opened = []
    real = zarr_source.open_node
    monkeypatch.setattr(zarr_source, "open_node", lambda *a: opened.append(a) or real(*a))
    zarr_source._opened.clear()
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda z: volume.read((z, 0, 0), (z + 1, 20, 26)), range(6)))
    np.testing.assert_array_equal(np.concatenate(parts), voxels)
    assert len(opened) == 1


def test_no_more_than_a_bounded_number_of_arrays_is_kept_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cte_dask.volume import zarr_source

    monkeypatch.setattr(zarr_source, "_MOST_OPEN", 2)
    monkeypatch.setattr(zarr_source, "_opened", {})
    volumes = [open_volume(zarr.array(np.full((2, 2), i), store=MemoryStore())) for i in range(4)]
    assert [int(v.read((0, 0, 0), (1, 1, 1)).item()) for v in volumes] == [0, 1, 2, 3]
    assert len(zarr_source._opened) == 2
