"""Targets on a web server, over a real loopback socket."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from volume.test_other_formats import WRITERS
from zarr.codecs import ShardingCodec

from cte_dask.volume import VolumeError, VolumeReadError, open_volume, write_ome_zarr, zarr_source

pytestmark = pytest.mark.service
ZERO = (0, 0, 0)


def test_an_ome_zarr_is_read_over_http(
    voxels: NDArray[Any], tmp_path: Path, serve: Callable[..., str]
) -> None:
    write_ome_zarr(
        tmp_path / "image.zarr",
        voxels,
        axes="zyx",
        voxel_size_nm=(50, 4, 4),
        chunks=(2, 4, 4),
        shards=(4, 8, 16),
    )
    volume = open_volume(f"{serve()}/image.zarr", roi="1:,:,:")
    np.testing.assert_array_equal(volume.read(ZERO, volume.shape), voxels[1:])
    np.testing.assert_array_equal(volume.read((0, 5, 5), (1, 6, 6)), voxels[1:2, 5:6, 5:6])
    (tmp_path / "image.zarr/0/c/1/0/0").unlink()
    assert volume.missing_chunks(ZERO, volume.shape) == 1


def test_a_server_without_byte_ranges_is_told_for_shards(
    voxels: NDArray[Any], write_array: Callable[..., str], serve: Callable[..., str]
) -> None:
    write_array(voxels, "sharded", chunks=(1, 5, 13), shards=(3, 10, 26))
    write_array(voxels, "plain", chunks=(3, 10, 13))
    url = serve(ranges=False)
    volume = open_volume(f"{url}/sharded")
    with pytest.raises(VolumeReadError, match="the server ignores byte ranges"):
        volume.read(ZERO, (1, 1, 1))
    plain = open_volume(f"{url}/plain")
    np.testing.assert_array_equal(plain.read(ZERO, plain.shape), voxels)
    assert plain.missing_chunks(ZERO, plain.shape) == 0


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_failing_server_is_an_error_never_an_omitted_chunk(
    status: int,
    voxels: NDArray[Any],
    write_array: Callable[..., str],
    serve: Callable[..., str],
) -> None:
    write_array(voxels, "a", chunks=(3, 10, 13))
    url = f"{serve(failing=('/c/', status))}/a"
    volume = open_volume(url)
    with pytest.raises(VolumeReadError, match=f"cannot read {url} at .*{status}"):
        volume.read(ZERO, volume.shape)
    with pytest.raises(VolumeReadError, match=f"cannot look up the chunks of {url}: .*{status}"):
        volume.missing_chunks(ZERO, volume.shape)


def test_metadata_that_is_forbidden_or_missing_is_told(
    voxels: NDArray[Any], write_array: Callable[..., str], serve: Callable[..., str]
) -> None:
    write_array(voxels, "a")
    with pytest.raises(VolumeError, match=r"/a cannot be opened as zarr: 403"):
        open_volume(f"{serve(failing=('zarr.json', 403))}/a")
    with pytest.raises(VolumeError, match=r"/b is not a zarr"):
        open_volume(f"{serve()}/b")


def test_more_chunks_than_a_server_can_be_asked_for_are_refused(
    voxels: NDArray[Any],
    write_array: Callable[..., str],
    serve: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_array(voxels, "a")
    volume = open_volume(f"{serve()}/a")
    monkeypatch.setattr(zarr_source, "_MOST_LOOKED_UP", 3)
    with pytest.raises(VolumeReadError, match=r"12 chunks of .* are too many"):
        volume.missing_chunks(ZERO, volume.shape)


def test_a_process_that_read_over_http_closes_its_session_without_complaints(
    voxels: NDArray[Any], write_array: Callable[..., str], serve: Callable[..., str]
) -> None:
    write_array(voxels, "a")
    code = f"""
import atexit, gc, fsspec, zarr
from cte_dask.storage import stores
from cte_dask.volume import open_volume, zarr_source
atexit.register(lambda: print(*[f._session.closed for f in stores._filesystems.values()]))
print(open_volume('{serve(protocol_version="HTTP/1.1")}/a').read((0, 0, 0), (1, 1, 1)).item())
zarr_source._opened.clear()
fsspec.filesystem("http").clear_instance_cache()
gc.collect()
"""
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=False
    )
    assert process.stderr == ""
    assert process.stdout.split() == [str(voxels[0, 0, 0]), "True"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_makes_its_own_connection(
    voxels: NDArray[Any], write_array: Callable[..., str], serve: Callable[..., str]
) -> None:
    write_array(voxels, "a")
    volume = open_volume(f"{serve()}/a")
    volume.read(ZERO, volume.shape)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        read = pool.apply_async(volume.read, (ZERO, volume.shape)).get(timeout=30)
    np.testing.assert_array_equal(read, voxels)


@pytest.mark.parametrize("name", ["n5", "precomputed"])
def test_n5_and_precomputed_volumes_are_read_over_http(
    name: str, voxels: NDArray[Any], tmp_path: Path, serve: Callable[..., str]
) -> None:
    path = Path(WRITERS[name](tmp_path, voxels)).relative_to(tmp_path)
    volume = open_volume(f"{name}://{serve()}/{path}")
    assert volume.describe()["voxel_size"] == "40,9.2,9.2 nm"
    np.testing.assert_array_equal(volume.read(ZERO, volume.shape), voxels)


@pytest.mark.parametrize("name", ["n5", "precomputed"])
def test_a_chunk_that_a_server_will_not_give_is_an_error_of_n5_and_precomputed_too(
    name: str, voxels: NDArray[Any], tmp_path: Path, serve: Callable[..., str]
) -> None:
    path = Path(WRITERS[name](tmp_path, voxels)).relative_to(tmp_path)
    chunk = {"n5": "raw/1/", "precomputed": "/raw/8-16"}[name]
    volume = open_volume(f"{name}://{serve(failing=(chunk, 403))}/{path}")
    with pytest.raises(VolumeReadError, match=f"cannot read {name}://http.*403"):
        volume.read(ZERO, volume.shape)


@pytest.mark.parametrize("index_location", ["start", "end"])
def test_a_part_of_a_shard_takes_few_requests_and_an_omitted_chunk_is_one(
    index_location: str, tmp_path: Path, serve: Callable[..., str]
) -> None:
    asked: list[str] = []
    shape, chunk = (24, 64, 128), (4, 16, 16)  # two shards of 96 chunks
    sharding = ShardingCodec(chunk_shape=chunk, index_location=index_location)
    array = zarr.create_array(
        tmp_path / "a",
        shape=shape,
        chunks=(24, 64, 64),
        dtype="uint16",
        serializer=sharding,
        compressors=None,
        fill_value=7,
    )
    expected = np.random.default_rng(0).integers(8, 999, shape).astype(np.uint16)
    expected[8:12, 16:32, 16:32] = 7
    array[:] = expected
    volume = open_volume(f"{serve(asked=asked)}/a")
    for box in [((1, 0, 3), (20, 60, 120)), ((0, 0, 0), (24, 64, 64)), ((8, 17, 17), (10, 20, 20))]:
        asked.clear()
        np.testing.assert_array_equal(
            volume.read(*box), expected[tuple(map(slice, *box))], strict=True
        )
        objects = [path for path in asked if "/c/" in path]
        assert len(objects) <= 2 * len(set(objects))
    assert volume.missing_chunks(ZERO, volume.shape) == 0


def test_a_damaged_index_of_a_shard_is_told_by_the_codec(
    tmp_path: Path, voxels: NDArray[Any], write_array: Callable[..., str], serve: Callable[..., str]
) -> None:
    write_array(voxels, "sharded", chunks=(1, 5, 13), shards=(3, 10, 26))
    volume = open_volume(f"{serve()}/sharded")
    shard = tmp_path / "sharded/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-60] ^= 255
    shard.write_bytes(content)
    with pytest.raises(VolumeReadError, match=f"cannot read {volume.url}"):
        volume.read(ZERO, (2, 6, 14))
