"""The OME-Zarr writer: metadata as the specification says, pyramids that mean what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from cte_dask.volume import VoxelSize, open_volume, write_ome_zarr

ZERO = (0, 0, 0)


def attributes(path: Path, version: str) -> dict[str, Any]:
    if version == "0.4":
        return json.loads((path / ".zattrs").read_text())
    return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_metadata_is_as_the_specification_says(version: Any, tmp_path: Path) -> None:
    image = np.arange(2 * 4 * 8 * 8, dtype=np.uint16).reshape(2, 4, 8, 8)
    write_ome_zarr(
        tmp_path / "a",
        image,
        axes="czyx",
        voxel_size_nm=(50, 4, 4),
        chunks=(1, 4, 4, 4),
        version=version,
        n_levels=2,
        labels={"cells": np.zeros((4, 8, 8), np.int32)},
        name="test",
    )
    metadata = attributes(tmp_path / "a", version)
    (multiscale,) = metadata["multiscales"]
    assert (metadata if version == "0.5" else multiscale)["version"] == version
    assert multiscale["name"] == "test"
    assert multiscale["axes"] == [
        {"name": "c", "type": "channel"},
        *({"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"),
    ]
    assert multiscale["datasets"] == [
        {
            "path": "0",
            "coordinateTransformations": [{"type": "scale", "scale": [1, 50, 4, 4]}],
        },
        {
            "path": "1",
            "coordinateTransformations": [
                {"type": "scale", "scale": [1, 100, 8, 8]},
                {"type": "translation", "translation": [0, 25, 2, 2]},
            ],
        },
    ]
    assert attributes(tmp_path / "a" / "labels", version)["labels"] == ["cells"]
    cells = attributes(tmp_path / "a" / "labels" / "cells", version)
    assert cells["image-label"]["source"] == {"image": "../../"}
    level = cells["multiscales"][0]["datasets"][1]
    assert level["coordinateTransformations"] == [{"type": "scale", "scale": [100, 8, 8]}]
    array = zarr.open_array(tmp_path / "a" / "0")
    assert array.metadata.zarr_format == (2 if version == "0.4" else 3)
    if version == "0.5":
        assert array.metadata.dimension_names == ("c", "z", "y", "x")
    else:
        assert (tmp_path / "a/0/0/0/0/0").is_file()


def level(path: Path, number: int) -> NDArray[Any]:
    volume = open_volume(path, level=number)
    return volume.read(ZERO, volume.shape)


def test_levels_of_an_image_are_means_and_of_labels_nearest(tmp_path: Path) -> None:
    image = np.arange(4 * 4 * 4, dtype=np.uint16).reshape(4, 4, 4) ** 2
    labels = np.arange(64, dtype=np.int32).reshape(4, 4, 4)
    path = tmp_path / "a"
    write_ome_zarr(
        path, image, axes="zyx", voxel_size_nm="4 nm", chunks=(2, 2, 2), labels={"l": labels}
    )
    means = image.reshape(2, 2, 2, 2, 2, 2).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(level(path, 1), np.rint(means))
    np.testing.assert_array_equal(level(path / "labels/l", 1), labels[::2, ::2, ::2])
    np.testing.assert_array_equal(level(path / "labels/l", 2), labels[::4, ::4, ::4])


def test_an_odd_or_single_voxel_is_halved_with_care(tmp_path: Path) -> None:
    image = np.array([[[1.0, 3.0, 10.0]]], np.float32)
    write_ome_zarr(
        tmp_path / "a", image, axes="zyx", voxel_size_nm=(50, 4, 4), chunks=(1, 1, 4), n_levels=9
    )
    np.testing.assert_array_equal(level(tmp_path / "a", 1), [[[2.0, 10.0]]])
    assert open_volume(tmp_path / "a", level=1).voxel_size == VoxelSize(50, 4, 8)
    np.testing.assert_array_equal(level(tmp_path / "a", 2), [[[6.0]]])
    with pytest.raises(ValueError, match=r"0\.\.2"):
        open_volume(tmp_path / "a", level=3)


def test_given_levels_are_written_as_they_are(tmp_path: Path) -> None:
    levels = [np.full((1, n, n), n, np.uint8) for n in (16, 8, 4)]
    write_ome_zarr(tmp_path / "a", levels, axes="zyx", voxel_size_nm=(50, 4, 4), chunks=(1, 8, 8))
    assert [int(level(tmp_path / "a", i).max()) for i in range(3)] == [16, 8, 4]
    assert open_volume(tmp_path / "a", level=2).voxel_size == VoxelSize(50, 16, 16)


def test_a_2d_image_of_unknown_depth_is_written(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    write_ome_zarr(tmp_path / "a", image, axes="yx", voxel_size_nm=(4, 4), chunks=(4, 4))
    volume = open_volume(tmp_path / "a")
    assert volume.voxel_size == VoxelSize(None, 4, 4)
    np.testing.assert_array_equal(volume.read(ZERO, volume.shape), image[np.newaxis])


def test_it_writes_to_a_url(voxels: NDArray[Any]) -> None:
    options = {"axes": "zyx", "voxel_size_nm": (50, 4, 4), "chunks": (2, 8, 8)}
    write_ome_zarr("memory://written", voxels, **options)
    volume = open_volume("memory://written")
    np.testing.assert_array_equal(volume.read(ZERO, volume.shape), voxels)
    with pytest.raises(ValueError, match="exists already"):
        write_ome_zarr("memory://written", voxels, **options)


def test_nothing_is_replaced_unasked_and_nothing_but_a_zarr_at_all(tmp_path: Path) -> None:
    image = np.ones((4, 4), np.uint8)
    options = {"axes": "yx", "voxel_size_nm": (4, 4), "chunks": (4, 4)}
    write_ome_zarr(tmp_path / "a", image, **options)
    with pytest.raises(ValueError, match="exists already"):
        write_ome_zarr(tmp_path / "a", image, **options)
    write_ome_zarr(tmp_path / "a", image + 1, **options, overwrite=True)
    assert level(tmp_path / "a", 0).max() == 2
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="is not a zarr"):
        write_ome_zarr(tmp_path / "precious", image, **options, overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": "zyx"}, "names 3 axes, the array has 2"),
        ({"axes": "xy"}, "in the order of 'tczyx'"),
        ({"version": "0.6"}, "NGFF version '0.6'"),
        ({"version": "0.4", "shards": (4, 4)}, "has no shards"),
        ({"labels": {"l": np.ones((4, 4))}}, "labels 'l' are float64"),
        ({"labels": {"l": np.ones((4, 5), int)}}, "of shape (4, 5): want integers of shape (4, 4)"),
        ({"image": []}, "no level to write"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options = {"image": np.ones((4, 4), np.uint8), "axes": "yx", "voxel_size_nm": (4, 4)}
    with pytest.raises(ValueError, match=r"\S") as caught:
        write_ome_zarr(tmp_path / "a", **{**options, "chunks": (4, 4), **changes})
    assert message in str(caught.value)
    assert not (tmp_path / "a").exists()
