"""Groups that lead to several images: each is listed as it is called, and chosen by that name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from cte_dask.volume import VolumeError, VoxelSize, open_volume, write_ome_zarr
from cte_dask.volume.zarr_place import split_target

SIZE = {"voxel_size_nm": (50.0, 4.0, 4.0), "chunks": (2, 8, 8)}


def why(target: object) -> VolumeError:
    with pytest.raises(VolumeError) as refusal:
        open_volume(target)
    assert "\n" not in str(refusal.value)
    return refusal.value


def described(name: str | None, path: str, scale: list[float]) -> dict[str, Any]:
    steps = [{"type": "scale", "scale": scale}]
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    image = {"axes": axes, "datasets": [{"path": path, "coordinateTransformations": steps}]}
    return image if name is None else {"name": name, **image}


@pytest.fixture
def several(tmp_path: Path, voxels: NDArray[Any]) -> str:
    """Write a group of two multiscale images."""
    images = [described("raw", "raw/s0", [50, 4, 4]), described("small", "small/s0", [50, 8, 8])]
    return group_of(tmp_path / "several.zarr", images, [voxels, voxels[:, ::2, ::2]])


def group_of(path: Path, images: list[dict[str, Any]], arrays: list[NDArray[Any]]) -> str:
    group = zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": images}})
    for image, data in zip(images, arrays, strict=True):
        group.create_array(image["datasets"][0]["path"], data=data, chunks=(2, 8, 8))
    return str(path)


def test_several_images_of_a_group_are_refused_with_all_that_tells_them_apart(several):
    error = why(several)
    assert error.problem == f"{several} holds 2 images"
    assert error.remedy == f"name one, as {several}::raw"
    assert error.details == (
        "there are raw uint16(6, 20, 26) 50,4,4 nm, small uint16(6, 10, 13) 50,8,8 nm"
    )
    assert str(error) == f"{error.problem}: {error.remedy}; {error.details}"


@pytest.mark.parametrize("member", ["small", "1"])
def test_an_image_of_a_group_is_chosen_by_name_or_number(several, voxels, member):
    volume = open_volume(f"{several}::{member}")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels[:, ::2, ::2])
    assert volume.voxel_size == VoxelSize(50, 8, 8)
    assert (volume.url, volume.path, volume.member) == (several, "small/s0", "small")
    assert volume.describe()["member"] == "small"
    assert open_volume(volume.target) == volume


def test_a_name_that_is_not_there_is_refused_with_those_that_are(several):
    assert why(f"{several}::big").problem == f"{several} holds no image 'big'"
    assert "there are raw" in str(why(f"{several}::2"))


def test_images_without_a_name_of_their_own_are_numbered(tmp_path, voxels):
    images = [described("raw", "a", [1, 1, 1]), described("raw", "b", [1, 1, 1])]
    images.append(described(None, "c", [1, 1, 1]))
    path = group_of(tmp_path / "a.zarr", images, [voxels, voxels[:2], voxels[:1]])
    assert "there are 0 uint16(6, 20, 26)" in str(why(path))
    assert open_volume(f"{path}::1").shape == (2, 20, 26)
    assert open_volume(f"{path}::2").member == "2"


def test_the_only_image_of_a_group_is_taken_and_has_no_need_of_its_name(tmp_path, voxels):
    path = group_of(tmp_path / "a.zarr", [described("raw", "s0", [1, 1, 1])], [voxels])
    volume = open_volume(path)
    assert open_volume(f"{path}::raw") == open_volume(f"{path}::0") == volume
    assert "member" not in volume.describe()


@pytest.fixture
def series(tmp_path: Path, voxels: NDArray[Any]) -> Callable[..., str]:
    """Return a writer of a bioformats2raw layout."""

    def write(*names: str, listed: bool = False) -> str:
        path = tmp_path / "converted.zarr"
        ome: dict[str, Any] = {"version": "0.5", "bioformats2raw.layout": 3}
        zarr.create_group(path, attributes={"ome": ome})
        for number, name in enumerate(names):
            write_ome_zarr(path / name, voxels[number:], axes="zyx", **SIZE)
        if listed:
            zarr.create_group(path / "OME", attributes={"ome": {"series": list(names)}})
        return str(path)

    return write


@pytest.mark.parametrize("listed", [False, True])
def test_series_of_a_conversion_are_listed_and_chosen_by_folder(series, voxels, listed):
    path = series("0", "1", listed=listed)
    error = why(path)
    assert error.problem == f"{path} is a bioformats2raw layout of several series"
    assert error.remedy == f"name one, as {path}::0"
    assert error.details == (
        "there are 0 uint16(6, 20, 26) 50,4,4 nm, 1 uint16(5, 20, 26) 50,4,4 nm"
    )
    volume = open_volume(f"{path}::1")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels[1:])
    assert open_volume(f"{path}/1") == volume == open_volume(volume.url)


def test_series_that_a_conversion_lists_have_the_names_of_the_list(series, voxels):
    path = series("macro", listed=True)
    volume = open_volume(path)
    assert volume.notes[0] == "series macro of a bioformats2raw layout"
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)


@pytest.fixture
def plate(tmp_path: Path, voxels: NDArray[Any]) -> Callable[..., str]:
    """Return a writer of a plate, whose fields are paths ``row/column/field``."""

    def write(*fields: str, version: str = "0.5") -> str:
        path = tmp_path / "plate.zarr"
        wells = list(dict.fromkeys(field.rpartition("/")[0] for field in fields))
        names = {well: [f for f in fields if f.startswith(f"{well}/")] for well in wells}
        _group(path, version, {"plate": {"wells": [{"path": well} for well in wells]}})
        for well, images in names.items():
            listed = [{"path": image.rpartition("/")[2]} for image in images]
            _group(path / well, version, {"well": {"images": listed}})
        for field in fields:
            write_ome_zarr(path / field, voxels, axes="zyx", **SIZE)
        return str(path)

    return write


def _group(path: Path, version: str, ome: dict[str, Any]) -> None:
    modern = version == "0.5"
    attributes = {"ome": {"version": version, **ome}} if modern else ome
    zarr.create_group(path, attributes=attributes, zarr_format=3 if modern else 2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_fields_of_a_plate_and_of_a_well_are_listed_as_they_are_called(plate, voxels, version):
    path = plate("A/1/0", "A/1/1", "B/12/0", version=version)
    error = why(path)
    assert error.problem == f"{path} is a plate of several fields"
    assert error.remedy == f"name one, as {path}::A/1/0"
    assert error.details == "there are A/1/0, A/1/1, B/12/0"
    assert why(f"{path}::A/1").details == "there are 0, 1"
    for target in (f"{path}::A/1/1", f"{path}/A/1/1", f"{path}/A/1::1", f"{path}::B/12"):
        volume = open_volume(target)
        np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)


def test_the_only_field_of_a_plate_is_taken_and_named(plate, voxels):
    volume = open_volume(plate("C/3/0"))
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)
    assert volume.notes[0] == "field C/3/0 of a plate"


def test_of_a_large_plate_the_first_fields_are_listed_and_no_other_well_is_opened(tmp_path):
    wells = [{"path": f"A/{column}"} for column in range(1, 385)]
    path = tmp_path / "plate.zarr"
    _group(path, "0.5", {"plate": {"wells": wells}})
    for column in range(1, 14):  # the others are not there
        _group(path / "A" / str(column), "0.5", {"well": {"images": [{"path": "0"}]}})
    assert why(path).details.endswith("A/11/0, A/12/0, …")


@pytest.mark.parametrize("ome", [{"plate": {"wells": [{}]}}, {"plate": 3}, {"well": {"images": 3}}])
def test_malformed_metadata_of_plates_is_said(tmp_path, ome):
    _group(tmp_path / "plate.zarr", "0.5", ome)
    assert "malformed" in str(why(tmp_path / "plate.zarr"))


def test_a_plate_without_fields_is_said(tmp_path):
    _group(tmp_path / "plate.zarr", "0.5", {"plate": {}})
    assert str(why(tmp_path / "plate.zarr")).endswith("plate.zarr is a plate without any field")


@pytest.fixture
def labels(tmp_path: Path, voxels: NDArray[Any]) -> str:
    """Write an image with its labels; return the path of these."""
    cells = {"cells": (voxels > 9).astype(np.uint8)}
    write_ome_zarr(tmp_path / "a.zarr", voxels, axes="zyx", labels=cells, **SIZE)
    return str(tmp_path / "a.zarr" / "labels" / "cells")


def test_labels_open_and_are_refused_where_intensities_are_wanted(labels, tmp_path):
    volume = open_volume(labels)
    assert volume.read((0, 0, 0), (1, 1, 1)).item() == 1
    with pytest.raises(VolumeError) as refusal:
        volume.check_no_labels()
    assert str(refusal.value) == (
        f"target {labels}/0 holds labels, by its metadata, and models want intensities: "
        f"name the image that they label, {tmp_path / 'a.zarr'}"
    )
    open_volume(tmp_path / "a.zarr").check_no_labels()


@pytest.mark.parametrize("about", [{}, {"source": 3}, {"source": {"image": None}}, 3])
def test_labels_that_do_not_say_of_what_are_labels_all_the_same(labels, about):
    group = zarr.open_group(labels, mode="r+")
    group.attrs["ome"] = {**group.attrs["ome"], "image-label": about}
    assert open_volume(labels).labelled == ""


@pytest.mark.parametrize(
    ("target", "place", "member"),
    [
        ("/data/a.zarr", "/data/a.zarr", ""),
        ("/data/a.zarr::raw", "/data/a.zarr", "raw"),
        ("file:///data/a.zarr::A/1/0", "/data/a.zarr", "A/1/0"),
        ("s3://bucket/a.zarr::raw", "s3://bucket/a.zarr", "raw"),
        ("https://host/a.zarr/::0", "https://host/a.zarr", "0"),
        ("simplecache::s3://bucket/a.zarr", "simplecache::s3://bucket/a.zarr", ""),
        ("simplecache::s3://bucket/a.zarr::0", "simplecache::s3://bucket/a.zarr", "0"),
        ("zip://a.zarr::/data/b.zip", "zip://a.zarr::/data/b.zip", ""),
        ("zip://a.zarr::b.zip", "zip://a.zarr::b.zip", ""),
    ],
)
def test_a_member_is_told_from_the_chained_urls_of_fsspec(target, place, member):
    assert split_target(target) == (place, member)
