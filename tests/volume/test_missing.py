"""Omitted chunks are the fill value and are counted; damaged ones are errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from numpy.typing import NDArray

from cte_dask.storage import retries
from cte_dask.volume import Volume, VolumeReadError, open_volume, zarr_source

Write = Callable[..., str]
ZERO = (0, 0, 0)


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file is damaged the third time, too."""
    monkeypatch.setattr(retries, "READ_WAITS", (0.0, 0.0))


def all_voxels(volume: Volume) -> NDArray[Any]:
    return volume.read(ZERO, volume.shape)


@pytest.mark.parametrize("options", [{"zarr_format": 2}, {}], ids=["v2", "v3"])
def test_omitted_chunks_read_as_the_fill_value_and_are_counted(
    options: dict[str, Any], voxels: NDArray[Any], write_array: Write
) -> None:
    path = write_array(voxels, chunks=(3, 10, 13), fill_value=7, **options)
    volume = open_volume(path, roi=":,:,5:")
    os.remove(Path(path) / ("1.0.1" if options else "c/1/0/1"))
    os.remove(Path(path) / ("0.1.0" if options else "c/0/1/0"))
    expected = voxels.copy()
    expected[3:, :10, 13:] = expected[:3, 10:, :13] = 7
    np.testing.assert_array_equal(all_voxels(volume), expected[:, :, 5:])
    assert volume.fill_value == 7
    assert volume.missing_chunks(ZERO, volume.shape) == 2
    assert volume.storage_objects(ZERO, volume.shape) == 8
    assert volume.missing_chunks(ZERO, (3, 20, 8)) == 1  # array x 5:13
    assert volume.missing_chunks(ZERO, (6, 10, 8)) == 0
    assert volume.missing_chunks((3, 0, 8), (6, 1, 9)) == 1  # array x 13:14


def test_omitted_shards_are_counted_not_their_chunks(
    voxels: NDArray[Any], write_array: Write
) -> None:
    path = write_array(voxels, chunks=(1, 5, 13), shards=(3, 10, 26))
    volume = open_volume(path)
    os.remove(Path(path) / "c/1/1/0")
    assert volume.missing_chunks(ZERO, volume.shape) == 1
    assert volume.storage_objects(ZERO, volume.shape) == 4
    assert not all_voxels(volume)[3:, 10:].any()


def test_only_the_chosen_channel_is_counted(write_array: Write) -> None:
    path = write_array(np.ones((3, 4, 4), np.uint8), chunks=(1, 2, 2))
    os.remove(Path(path) / "c/1/0/0")
    counts = [
        open_volume(path, axes="cyx", channel=c).missing_chunks(ZERO, (1, 4, 4)) for c in range(3)
    ]
    assert counts == [0, 1, 0]


@pytest.mark.parametrize("inside", [False, True], ids=["at the root", "in a group"])
@pytest.mark.parametrize(
    "options",
    [{"zarr_format": 2}, {}, {"chunk_key_encoding": {"name": "default", "separator": "."}}],
    ids=["v2", "v3", "v3 dotted"],
)
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_listing_the_keys_counts_as_asking_one_by_one_does(
    options: dict[str, Any],
    inside: bool,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = np.random.default_rng(0).integers(0, 2, (5, 7, 11)).astype(np.uint8)
    url = str(tmp_path / "g") if place == "disk" else f"memory://listing-{inside}-{len(options)}"
    name = "sub/raw" if inside else None
    array = zarr.create_array(
        url, name=name, shape=data.shape, dtype="u1", chunks=(1, 2, 2), overwrite=True, **options
    )
    array[...] = data
    if inside:  # another array beside it must not be counted
        zarr.create_array(url, name="sub/rawer", shape=(2, 2), dtype="u1")[...] = 1
    volume = open_volume(f"{url}/{name}" if inside else url, roi="1:,2:,:9")
    one_by_one = volume.missing_chunks(ZERO, volume.shape)
    blocks = [
        data[z, y : y + 2, x : x + 2]
        for z in range(1, 5)
        for y in range(2, 7, 2)
        for x in range(0, 9, 2)
    ]
    assert one_by_one == sum(not block.any() for block in blocks) > 0
    monkeypatch.setattr(zarr_source, "_LOOKED_UP", 3)
    assert volume.missing_chunks(ZERO, volume.shape) == one_by_one


DAMAGED = {
    "v2": {"zarr_format": 2},
    "v3": {},
    "v3 raw": {"compressors": None},
    "sharded": {"chunks": (1, 5, 13), "shards": (3, 10, 26)},
    "sharded, index first": {
        "chunks": (1, 5, 13),
        "shards": {"shape": (3, 10, 26), "index_location": "start"},
    },
}


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99], ids=["emptied", "halved", "cut short"])
@pytest.mark.parametrize("is_partial", [False, True], ids=["all of it", "part of it"])
@pytest.mark.parametrize("place", ["disk", "memory"])
@pytest.mark.parametrize("options", DAMAGED.values(), ids=DAMAGED)
def test_a_truncated_chunk_or_shard_is_an_error_never_the_fill_value(
    options: dict[str, Any],
    place: str,
    is_partial: bool,
    fraction: float,
    voxels: NDArray[Any],
    write_array: Write,
) -> None:
    path = write_array(voxels, **{"chunks": (3, 10, 26), **options})
    key = {2: "1.1.0"}.get(options.get("zarr_format", 3), "c/1/1/0")
    stored = Path(path, key).read_bytes()
    Path(path, key).write_bytes(stored[: int(fraction * len(stored))])
    if place == "memory":
        filesystem = fsspec.filesystem("memory")
        filesystem.put(path, "/damaged", recursive=True)
        path = "memory://damaged"
    volume = open_volume(path)
    # a part: the last inner chunk of the last shard, where a cut at its end is met
    start = (5, 15, 13) if is_partial else ZERO
    with pytest.raises(VolumeReadError, match="cannot read") as caught:
        volume.read(start, volume.shape)
    assert str(caught.value).startswith(f"cannot read {path} at [")
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(volume.read(ZERO, (3, 10, 13)), voxels[:3, :10, :13])


def test_a_range_that_comes_back_short_is_told_as_truncated(
    voxels: NDArray[Any], write_array: Write
) -> None:
    path = Path(write_array(voxels, **DAMAGED["sharded, index first"]))
    stored = (path / "c/1/1/0").read_bytes()
    (path / "c/1/1/0").write_bytes(stored[:-3])
    with pytest.raises(VolumeReadError, match=r"c/1/1/0 is truncated: \d+ of \d+ bytes"):
        open_volume(path).read((5, 15, 13), (6, 20, 26))


def test_a_flipped_bit_under_a_checksum_is_an_error(voxels: NDArray[Any], tmp_path: Path) -> None:
    from cte_dask.volume import write_ome_zarr

    for version in ("0.4", "0.5"):
        path = tmp_path / version
        write_ome_zarr(
            path, voxels, axes="zyx", voxel_size_nm=(4, 4, 4), chunks=(6, 20, 26), version=version
        )
        chunk = path / ("0/0/0/0" if version == "0.4" else "0/c/0/0/0")
        stored = bytearray(chunk.read_bytes())
        stored[len(stored) // 2] ^= 1
        chunk.write_bytes(bytes(stored))
        with pytest.raises(VolumeReadError, match="cannot read"):
            all_voxels(open_volume(path))


@pytest.mark.parametrize("options", [{"zarr_format": 2}, {}], ids=["v2", "v3"])
def test_an_array_that_vanished_is_an_error_not_all_fill_values(
    options: dict[str, Any], voxels: NDArray[Any], write_array: Write
) -> None:
    path = Path(write_array(voxels, **options))
    volume = open_volume(path)
    path.rename(path.parent / "unmounted")
    with pytest.raises(VolumeReadError, match="the array is no longer there"):
        all_voxels(volume)


class Failing(MemoryFileSystem):
    """A file system whose chunks cannot be read."""

    protocol = "failing"
    cachable = False
    error: type[Exception] = PermissionError

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("failing://"))

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        if "/c/" in path:
            raise self.error(f"no such luck with {path}")
        return super().cat_file(path, *args, **kwargs)


@pytest.mark.parametrize(
    "error", [PermissionError, TimeoutError, IsADirectoryError, NotADirectoryError, RuntimeError]
)
def test_any_failure_but_not_found_is_an_error(
    error: type[Exception], voxels: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("failing", Failing, clobber=True)
    array = zarr.create_array("memory://fails", shape=voxels.shape, dtype="u2", overwrite=True)
    array[...] = voxels
    monkeypatch.setattr(Failing, "error", error)
    volume = open_volume("failing://fails")
    with pytest.raises(VolumeReadError, match=r"cannot read failing://fails at .* no such luck"):
        all_voxels(volume)
    with pytest.raises(VolumeReadError, match="cannot look up the chunks of failing://fails"):
        volume.missing_chunks(ZERO, volume.shape)


def test_a_lazy_array_that_fails_is_a_read_error(voxels: NDArray[Any]) -> None:
    import dask.array as da

    def fail(block: NDArray[Any]) -> NDArray[Any]:
        raise RuntimeError("the graph broke")

    lazy = da.from_array(voxels).map_blocks(fail, dtype=voxels.dtype, meta=voxels)
    with pytest.raises(VolumeReadError, match=r"cannot compute dask Array: the graph broke"):
        all_voxels(open_volume(lazy))
