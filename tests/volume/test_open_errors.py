"""Bad targets and bad choices: one clear line that names the value and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from numpy.typing import NDArray

from cte_dask.volume import VolumeError, open_volume, write_ome_zarr

Write = Callable[..., str]


def why(target: object, **options: Any) -> str:
    """Return the one line that opening a bad target gives."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        open_volume(target, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing.zarr"
    assert why(path) == f"{path} does not exist"
    assert why("memory://nothing") == (
        "memory://nothing is not a zarr: no zarr.json, .zarray or .zgroup there, nor planes "
        "that the server lists; N5 and precomputed volumes are named n5://… and precomputed://…"
    )


def test_what_is_not_a_zarr_is_told_so(tmp_path: Path) -> None:
    assert "is not a zarr: no zarr.json" in why(tmp_path)
    image = tmp_path / "image.czi"
    image.write_bytes(b"ZISRAWFILE")
    assert why(image).startswith(f"{image} is a file, not a zarr")
    for target in (3, None, object(), b"path"):
        assert f"a target of type {type(target).__name__} is not supported" in why(target)


def test_a_protocol_that_is_unknown_or_not_installed_is_told() -> None:
    assert "Protocol not known: nosuch" in why("nosuch://bucket/image.zarr")
    assert why("nosuch://bucket/image.zarr").startswith("nosuch://bucket/image.zarr: ")


def test_a_server_that_is_not_there_is_told() -> None:
    message = why("http://127.0.0.1:9/image.zarr")
    assert message.startswith("http://127.0.0.1:9/image.zarr cannot be opened as zarr: ")
    assert "127.0.0.1:9" in message.partition(": ")[2]


@pytest.mark.parametrize("content", ["{nonsense", "", '{"zarr_format": 3, "node_type": "array"}'])
def test_broken_metadata_is_told(content: str, write_array: Write) -> None:
    path = write_array(np.ones((4, 4), np.uint8))
    (Path(path) / "zarr.json").write_text(content)
    assert why(path).startswith(f"{path} cannot be opened as zarr: ")


def test_broken_ngff_metadata_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": [{}]}})
    assert why(path).startswith(f"{path}: malformed multiscales metadata")


def test_a_level_that_the_metadata_lists_and_the_store_lacks_is_told(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    data = np.ones((4, 32, 32), np.uint8)
    write_ome_zarr(path, data, axes="zyx", voxel_size_nm=(4, 4, 4), chunks=(4, 8, 8), n_levels=2)
    (path / "1").rename(path / "elsewhere")
    assert why(path, level=1) == f"{path}/1 does not exist"
    assert open_volume(path, level=0).shape == (4, 32, 32)


class Denied(MemoryFileSystem):
    """A file system that lets nobody in."""

    protocol = "denied"
    cachable = False

    def cat_file(self, path: str, **_: Any) -> bytes:
        raise PermissionError(f"access denied: {path}")


def test_no_permission_is_told() -> None:
    fsspec.register_implementation("denied", Denied, clobber=True)
    assert why("denied://bucket/image.zarr").startswith(
        "denied://bucket/image.zarr: no permission to read it: access denied"
    )


def test_a_group_of_several_arrays_lists_them(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "group.zarr")
    for name in ("s1", "s0", "raw"):
        group.create_array(name, shape=(2, 2), dtype="u1")
    message = why(tmp_path / "group.zarr")
    assert "holds 3 arrays" in message
    path = tmp_path / "group.zarr"
    assert message.endswith(f"name one, as {path}::raw; there are raw, s0, s1")
    assert open_volume(f"{path}::s1") == open_volume(path / "s1")


def test_a_group_of_groups_or_of_nothing_is_told(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "group.zarr")
    assert "holds no array" in why(tmp_path / "group.zarr")
    group.create_group("inner")
    assert why(tmp_path / "group.zarr").endswith("group.zarr::inner; there are inner")


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3, 4), {"axes": "yx"}, "axes 'yx' names 2 axes, the array has 3"),
        ((2, 3, 4), {"axes": "zyxc"}, "names 4 axes, the array has 3"),
        ((2, 3, 4), {"axes": "zzx"}, "every axis can be named only once"),
        ((2, 3, 4), {"axes": "tcz"}, "y and x are needed"),
        ((2, 3, 4), {"axes": "ayx"}, "unknown a; want letters of 'tczyx'"),
        ((2, 3, 4, 5), {}, "has 4 axes and does not name them: name them with --axes"),
        ((1, 2, 3, 4, 5), {}, "for example --axes tczyx"),
        ((5,), {}, "has 1 axes"),
        (
            (2, 3, 4),
            {"axes": "cyx"},
            "has 2 along its channel axis: choose --channel 0..1",
        ),
        ((2, 3, 4), {"axes": "tyx"}, "has 2 along its time axis: choose --time 0..1"),
        (
            (2, 3, 4),
            {"axes": "cyx", "channel": 2},
            "channel 2 is out of range: choose --channel 0..1",
        ),
        ((2, 3, 4), {"axes": "cyx", "channel": -1}, "channel -1 is out of range"),
        ((2, 3, 4), {"axes": "tyx", "time": 7}, "time 7 is out of range: choose --time 0..1"),
        ((2, 3, 4), {"channel": 1}, "channel 1: the target has no channel axis"),
        ((2, 3, 4), {"time": 1}, "time 1: the target has no time axis"),
        ((2, 3, 4), {"level": 1}, "level 1 is out of range"),
        ((2, 3, 4), {"level": -1}, "has level 0 only (or 'auto')"),
        ((2, 3, 4), {"level": "fine"}, "level 'fine' is out of range"),
        ((2, 3, 4), {"roi": "0:0,:,:"}, "roi '0:0,:,:' is empty"),
        ((2, 3, 4), {"roi": "0:3,:,:"}, "roi '0:3,:,:' is out of range"),
        ((2, 3, 4), {"voxel_size": "4"}, "voxel size '4' has no known unit"),
        ((2, 3, 4), {"training_voxel_size": (4, 4, -4)}, "must be positive"),
        ((2, 0, 4), {}, "holds no voxels: axis y has extent 0"),
    ],
)
def test_a_bad_choice_is_named_with_what_is_accepted(
    shape: tuple[int, ...], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    zarr.create_array(
        tmp_path / "a", shape=shape, dtype="u1", chunks=tuple(max(1, n) for n in shape)
    )
    assert message in why(tmp_path / "a", **options)


def test_axes_that_contradict_the_metadata_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    data = np.ones((2, 8, 8), np.uint8)
    write_ome_zarr(path, data, axes="cyx", voxel_size_nm=(4, 4), chunks=(1, 8, 8))
    assert "says 'cyx'" in why(path, axes="zyx")
    assert open_volume(path, axes="cyx", channel=1).axes == "cyx"


def test_a_missing_channel_names_the_channels(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    data = np.ones((2, 8, 8), np.uint8)
    write_ome_zarr(path, data, axes="cyx", voxel_size_nm=(4, 4), chunks=(1, 8, 8))
    group = zarr.open_group(path)
    channels = {"omero": {"channels": [{"label": "DAPI"}, {"label": "actin"}]}}
    group.attrs["ome"] = {**group.attrs["ome"], **channels}
    assert why(path).endswith("choose --channel 0..1 (0 = DAPI, 1 = actin)")


@pytest.mark.parametrize("dtype", ["bool", "complex64", "U3", "datetime64[s]"])
def test_elements_that_are_not_real_numbers_are_refused(dtype: str, tmp_path: Path) -> None:
    data = np.zeros((2, 3, 4), dtype)
    for target in (data, zarr.array(data, store=tmp_path / "a", zarr_format=2)):
        assert re.search(r"elements of type .*: want integers or real numbers", why(target))


def test_an_array_that_changed_after_opening_is_not_read_as_if_it_had_not(
    voxels: NDArray[Any], write_array: Write
) -> None:
    from cte_dask.volume import VolumeReadError, zarr_source

    volume = open_volume(write_array(voxels))
    write_array(voxels[:3], overwrite=True)
    zarr_source._opened.clear()  # as in another process
    with pytest.raises(VolumeReadError, match="has changed since it was opened"):
        volume.read((0, 0, 0), (1, 1, 1))


def test_errors_are_value_errors_and_os_errors() -> None:
    from cte_dask.volume import VolumeReadError

    assert issubclass(VolumeError, ValueError)
    assert issubclass(VolumeReadError, OSError)


def test_a_picture_in_colour_that_names_no_axes_is_asked_about():
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="looks like a picture in colour: give --axes yxc"):
        open_volume(picture)
    volume = open_volume(picture, axes="yxc", channel=2)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (1, 40, 50))[0], picture[..., 2])
    assert open_volume(picture, axes="zyx").shape == (40, 50, 3)
