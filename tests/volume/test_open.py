"""Every kind of target opens as the same voxels, and every choice in it is honoured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from cte_dask.volume import Volume, VoxelSize, open_volume, write_ome_zarr

Write = Callable[..., str]


def all_voxels(volume: Volume) -> NDArray[Any]:
    return volume.read((0, 0, 0), volume.shape)


STORED = {
    "v2": {"zarr_format": 2},
    "v2 nested keys": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v2 Fortran order": {"zarr_format": 2, "order": "F"},
    "v3": {},
    "v3 raw": {"compressors": None},
    "v3 dotted keys": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3 with v2 keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v3 sharded": {"chunks": (2, 4, 4), "shards": (4, 8, 16)},
    "v3 sharded, index first": {
        "chunks": (2, 4, 4),
        "shards": {"shape": (4, 8, 16), "index_location": "start"},
    },
    "chunks beyond the array": {"chunks": (32, 32, 32)},
}


@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
def test_every_zarr_array_opens_as_its_voxels(
    options: dict[str, Any], voxels: NDArray[Any], write_array: Write
) -> None:
    volume = open_volume(write_array(voxels, **options))
    np.testing.assert_array_equal(all_voxels(volume), voxels)
    assert volume.shape == volume.array_shape == voxels.shape
    assert volume.dtype == "uint16"
    assert (volume.axes, volume.channel, volume.time, volume.level) == ("zyx", None, None, 0)
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 0
    assert volume.voxel_size is None
    assert volume.translation is None


def test_chunks_shards_and_read_unit_are_told_in_zyx(
    voxels: NDArray[Any], write_array: Write
) -> None:
    sharded = open_volume(write_array(voxels, "a", chunks=(2, 4, 4), shards=(4, 8, 16)))
    assert (sharded.chunks, sharded.shards) == ((2, 4, 4), (4, 8, 16))
    assert sharded.read_unit == (4, 8, 16)
    turned = open_volume(write_array(voxels.transpose(2, 0, 1), "b", chunks=(7, 3, 4)), axes="xzy")
    assert (turned.chunks, turned.shards, turned.read_unit) == ((3, 4, 7), None, (3, 4, 7))
    wide = open_volume(write_array(voxels, "c", chunks=(64, 64, 64)))
    assert (wide.chunks, wide.read_unit) == ((64, 64, 64), voxels.shape)
    assert sharded.storage_objects((0, 0, 0), (5, 8, 17)) == 2 * 1 * 2


@pytest.mark.parametrize(
    "dtype", ["uint8", ">u2", "int16", ">i4", "uint64", "float16", ">f4", "f8"]
)
def test_voxels_come_in_the_stored_type_and_native_byte_order(
    dtype: str, write_array: Write
) -> None:
    data = np.arange(1, 61).reshape(3, 4, 5).astype(dtype)
    for options in ({"zarr_format": 2}, {}):
        volume = open_volume(write_array(data, f"{len(options)}", **options))
        got = all_voxels(volume)
        assert got.dtype == np.dtype(dtype).newbyteorder("=") == volume.dtype
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, data)


@pytest.mark.parametrize("axes", ["zyx", "zxy", "xyz", "yzx"])
def test_axes_in_any_order_become_zyx(axes: str, voxels: NDArray[Any], write_array: Write) -> None:
    stored = voxels.transpose(["zyx".index(axis) for axis in axes])
    np.testing.assert_array_equal(all_voxels(open_volume(write_array(stored), axes=axes)), voxels)


def test_channel_and_time_select(write_array: Write) -> None:
    data = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6).astype(np.int32)
    volume = open_volume(write_array(data, chunks=(2, 2, 2, 2, 2)), axes="tczyx", channel=2, time=1)
    np.testing.assert_array_equal(all_voxels(volume), data[1, 2])
    assert (volume.channel, volume.time) == (2, 1)
    last = open_volume(write_array(np.moveaxis(data[0], 0, -1), "b"), axes="zyxc", channel=1)
    np.testing.assert_array_equal(all_voxels(last), data[0, 1])


def test_axes_of_one_entry_need_no_choice(write_array: Write) -> None:
    data = np.arange(20, dtype=np.int32).reshape(1, 1, 4, 5)
    volume = open_volume(write_array(data), axes="tcyx")
    assert (volume.channel, volume.time, volume.shape) == (0, 0, (1, 4, 5))
    np.testing.assert_array_equal(all_voxels(volume), data[0])


def test_a_2d_image_is_a_volume_of_one_plane(write_array: Write) -> None:
    data = np.arange(20, dtype=np.uint8).reshape(4, 5)
    volume = open_volume(write_array(data), roi="1:4,2:5")
    assert (volume.axes, volume.shape, volume.chunks) == ("yx", (1, 3, 3), (1, 4, 5))
    np.testing.assert_array_equal(all_voxels(volume), data[np.newaxis, 1:4, 2:5])


def test_a_roi_moves_the_origin_of_all_coordinates(
    voxels: NDArray[Any], write_array: Write
) -> None:
    volume = open_volume(write_array(voxels), roi="1:5,3:,:20", voxel_size="50,4,4 nm")
    assert (volume.shape, volume.origin) == ((4, 17, 20), (1, 3, 0))
    assert volume.array_shape == voxels.shape
    np.testing.assert_array_equal(all_voxels(volume), voxels[1:5, 3:, :20])
    np.testing.assert_array_equal(volume.read((-1, -2, 0), (1, 1, 25)), voxels[:2, 1:4, :25])
    assert volume.translation == (0, 0, 0)


def test_axes_are_named_by_zarr_v3_and_by_xarray(write_array: Write) -> None:
    data = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    v3 = open_volume(write_array(data, "a", dimension_names=["channel", "y", "x"]), channel=3)
    assert v3.axes == "cyx"
    path = write_array(
        data, "b", zarr_format=2, attributes={"_ARRAY_DIMENSIONS": ["time", "y", "x"]}
    )
    assert open_volume(path, time=3).axes == "tyx"
    foreign = open_volume(write_array(data, "c", dimension_names=["a", "b", "c"]))
    assert foreign.axes == "zyx"


@pytest.mark.parametrize(
    ("version", "shards"), [("0.4", None), ("0.5", None), ("0.5", (1, 4, 16, 16))]
)
def test_an_ome_zarr_opens_with_its_axes_and_voxel_size(
    version: Any, shards: Any, voxels: NDArray[Any], tmp_path: Path
) -> None:
    image = np.stack([voxels, voxels + 1])
    labels = (voxels % 7).astype(np.int32)
    path = tmp_path / "image.zarr"
    write_ome_zarr(
        path,
        image,
        axes="czyx",
        voxel_size_nm=(50, 4, 4),
        chunks=(1, 2, 8, 8),
        shards=shards,
        version=version,
        labels={"cells": labels},
    )
    volume = open_volume(path, channel=1)
    np.testing.assert_array_equal(all_voxels(volume), voxels + 1)
    assert (volume.axes, volume.voxel_size) == ("czyx", VoxelSize(50, 4, 4))
    assert (volume.path, volume.shards) == ("0", shards and shards[1:])
    half = open_volume(path, channel=0, level=1)
    assert (half.shape, half.voxel_size) == ((3, 10, 13), VoxelSize(100, 8, 8))
    assert half.translation == (25, 2, 2)
    label = open_volume(path / "labels" / "cells")
    np.testing.assert_array_equal(all_voxels(label), labels)
    assert label.voxel_size == VoxelSize(50, 4, 4)


@pytest.mark.parametrize(
    ("trained", "level"), [("4 nm", 0), ("5.6 nm", 0), ("5.7 nm", 1), (None, 0)]
)
def test_auto_takes_the_level_nearest_to_the_training_voxel_size(
    trained: str | None, level: int, voxels: NDArray[Any], tmp_path: Path
) -> None:
    path = tmp_path / "image.zarr"
    write_ome_zarr(path, voxels, axes="zyx", voxel_size_nm=(50, 4, 4), chunks=(4, 8, 8))
    volume = open_volume(path, training_voxel_size=trained)
    assert volume.level == level
    assert any(str(volume.voxel_size) in note for note in volume.notes) == (trained is not None)


def test_a_given_voxel_size_overrides_and_scales_with_the_level(
    voxels: NDArray[Any], tmp_path: Path
) -> None:
    path = tmp_path / "image.zarr"
    write_ome_zarr(path, voxels, axes="zyx", voxel_size_nm=(50, 4, 4), chunks=(4, 8, 8))
    volume = open_volume(path, voxel_size="100,10,10 nm", training_voxel_size="100,19,19 nm")
    assert (volume.level, volume.voxel_size) == (1, VoxelSize(200, 20, 20))


def test_an_unknown_unit_is_reported_unless_a_voxel_size_is_given(
    voxels: NDArray[Any], tmp_path: Path
) -> None:
    path = tmp_path / "image.zarr"
    write_ome_zarr(path, voxels, axes="zyx", voxel_size_nm=(50, 4, 4), chunks=(4, 8, 8))
    metadata = json.loads((path / "zarr.json").read_text())
    for axis in metadata["attributes"]["ome"]["multiscales"][0]["axes"]:
        axis["unit"] = "smoot"
    (path / "zarr.json").write_text(json.dumps(metadata))
    volume = open_volume(path, training_voxel_size="8 nm")
    assert (volume.voxel_size, volume.level) == (None, 0)
    assert sum("unknown unit 'smoot'" in note for note in volume.notes) == 3
    assert any("to compare with 8,8,8 nm" in note for note in volume.notes)
    with_size = open_volume(path, training_voxel_size="8 nm", voxel_size=(50, 4, 4))
    assert (with_size.level, with_size.voxel_size) == (1, VoxelSize(100, 8, 8))
    assert not any("unit" in note for note in with_size.notes)


def test_a_bioformats2raw_layout_opens_its_first_series(
    voxels: NDArray[Any], tmp_path: Path
) -> None:
    path = tmp_path / "converted.zarr"
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    write_ome_zarr(path / "0", voxels, axes="zyx", voxel_size_nm=(50, 4, 4), chunks=(4, 8, 8))
    volume = open_volume(path)
    np.testing.assert_array_equal(all_voxels(volume), voxels)
    assert (volume.path, volume.notes[0]) == ("0/0", "series 0 of a bioformats2raw layout")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_group_of_one_array_opens_it(
    zarr_format: Any, voxels: NDArray[Any], tmp_path: Path
) -> None:
    group = zarr.create_group(tmp_path / "group.zarr", zarr_format=zarr_format)
    array = group.create_array("raw", shape=voxels.shape, dtype=voxels.dtype, chunks=(4, 8, 8))
    array[...] = voxels
    volume = open_volume(tmp_path / "group.zarr")
    assert volume.path == "raw"
    np.testing.assert_array_equal(all_voxels(volume), voxels)


def test_a_file_url_and_a_relative_path_name_the_same_target(
    voxels: NDArray[Any], write_array: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_array(voxels)
    monkeypatch.chdir(tmp_path)
    assert open_volume(f"file://{path}") == open_volume("array.zarr") == open_volume(path)


def as_source(kind: str, data: NDArray[Any], path: Path) -> Any:
    if kind == "numpy":
        return data
    if kind == "dask":
        return da.from_array(data, chunks=(2, 7, 26))
    if kind == "xarray":
        return xr.DataArray(data, dims=("z", "y", "x"))
    if kind == "xarray of dask":
        return xr.DataArray(da.from_array(data, chunks=(2, 7, 26)), dims=("z", "y", "x"))
    if kind == "zarr in memory":
        return zarr.array(data, store=MemoryStore(), chunks=(4, 8, 8))
    if kind == "zarr group in memory":
        group = zarr.create_group(MemoryStore())
        group.create_array("raw", data=data, chunks=(4, 8, 8))
        return group
    return zarr.array(data, store=path / "array.zarr", chunks=(4, 8, 8))


KINDS = [
    "numpy",
    "dask",
    "xarray",
    "xarray of dask",
    "zarr",
    "zarr in memory",
    "zarr group in memory",
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_from_python_opens_as_its_voxels(
    kind: str, voxels: NDArray[Any], tmp_path: Path
) -> None:
    volume = open_volume(as_source(kind, voxels, tmp_path), roi="1:,:,2:20")
    np.testing.assert_array_equal(all_voxels(volume), voxels[1:, :, 2:20])
    assert volume.dtype == voxels.dtype
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 0
    if "dask" in kind:
        assert volume.chunks == (2, 7, 26)


def test_names_of_xarray_dimensions_are_axes() -> None:
    data = np.arange(24).reshape(2, 3, 4)
    volume = open_volume(xr.DataArray(data, dims=("channel", "y", "x")), channel=1)
    assert volume.axes == "cyx"
    np.testing.assert_array_equal(all_voxels(volume), data[1:2])
    assert open_volume(xr.DataArray(data, dims=("a", "b", "c"))).axes == "zyx"


def test_what_is_read_is_a_copy(voxels: NDArray[Any]) -> None:
    before = voxels.copy()
    all_voxels(open_volume(voxels))[:] = 0
    np.testing.assert_array_equal(voxels, before)


def test_a_lazy_array_is_computed_in_the_thread_that_reads(voxels: NDArray[Any]) -> None:
    import threading

    threads = set()

    def note(block: NDArray[Any]) -> NDArray[Any]:
        threads.add(threading.get_ident())
        return block

    lazy = da.from_array(voxels, chunks=(2, 7, 26)).map_blocks(
        note, dtype=voxels.dtype, meta=voxels
    )
    all_voxels(open_volume(lazy))
    assert threads == {threading.get_ident()}


def test_a_description_is_json_and_holds_no_storage_options(write_array: Write) -> None:
    path = write_array(np.ones((4, 4), np.uint8))
    described = open_volume(path, voxel_size=(4, 4), storage_options={"key": "secret"}).describe()
    assert "secret" not in json.dumps(described)
    assert described["url"] == path
    assert described["voxel_size"] == "?,4,4 nm"
    assert described["translation_nm"] == [None, 0.0, 0.0]


def test_an_old_image_of_three_axes_without_names_is_read_as_an_array_is(tmp_path, voxels):
    group = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=voxels)
    group.attrs["multiscales"] = [{"datasets": [{"path": "0"}]}]
    for axes in (None, "zyx"):
        volume = open_volume(tmp_path / "old.zarr", axes=axes)
        np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)
