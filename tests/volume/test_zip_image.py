"""A zarr in a zip file: where in it, what is missing, and what is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from cte_dask.errors import VolumeError, VolumeReadError
from cte_dask.volume import open_volume, write_ome_zarr


def why(target: object) -> str:
    with pytest.raises(VolumeError) as refusal:
        open_volume(target)
    line = str(refusal.value)
    assert "\n" not in line
    return line


def zipped(file: Path, *folders: str, inside: str = "", skip: str = "-") -> str:
    """Write folders as a zip file; each below its own name if ``inside`` is a place."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in map(Path, folders):
            for path in sorted(folder.rglob("*")):
                if path.name != skip:
                    name = path.relative_to(folder)
                    archive.write(path, Path(inside, folder.name, name) if inside else name)
    return str(file)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["a.zarr.zip", "A.ZIP", "a.ozx"])
def test_an_array_at_the_root_is_read(tmp_path, voxels, write_array, zarr_format, name):
    path = zipped(tmp_path / name, write_array(voxels, zarr_format=zarr_format))
    for target in (path, f"file://{path}", Path(path)):
        volume = open_volume(target)
        assert volume.url == path
        np.testing.assert_array_equal(volume.read((1, 3, 5), (4, 19, 23)), voxels[1:4, 3:19, 5:23])


def test_a_sharded_pyramid_is_read_at_every_level(tmp_path, voxels):
    large = np.tile(voxels, (4, 8, 8))
    extents = {"chunks": (4, 32, 32), "shards": (8, 64, 64)}
    write_ome_zarr(tmp_path / "a.zarr", large, axes="zyx", voxel_size_nm=(40, 4, 4), **extents)
    path = zipped(tmp_path / "a.ozx", tmp_path / "a.zarr")
    for level in range(3):
        expected = open_volume(tmp_path / "a.zarr", level=level)
        volume = open_volume(path, level=level)
        assert volume.describe() == {**expected.describe(), "url": path}
        box = (1, 3, 5), (5, 39, 41)
        np.testing.assert_array_equal(volume.read(*box), expected.read(*box))


def test_a_folder_that_was_zipped_with_its_name_is_read(
    tmp_path: Path, voxels: np.ndarray, write_array: Callable[..., str]
) -> None:
    first, second = write_array(voxels, "one.zarr"), write_array(voxels[::-1], "two.zarr")
    path = zipped(tmp_path / "a.zip", first, inside=".")
    volume = open_volume(path)
    assert volume.url == f"{path}::one.zarr"
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)
    assert open_volume(volume.url) == volume
    path = zipped(tmp_path / "b.zip", first, second, inside=".")
    assert "holds 2 zarrs: name one, as" in why(path)
    assert "there are one.zarr, two.zarr" in why(path)
    volume = open_volume(f"{path}::two.zarr/")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels[::-1])
    path = zipped(tmp_path / "c.zip", first, inside="deep/down")
    assert "holds no zarr at its root or in a folder there" in why(path)
    assert open_volume(f"{path}::deep/down/one.zarr").shape == voxels.shape


@pytest.mark.parametrize("inside", ["", "."])
def test_chunks_that_are_not_in_the_file_are_counted(tmp_path, voxels, write_array, inside):
    folder = write_array(voxels, fill_value=7, chunk_key_encoding={"name": "v2", "separator": "."})
    volume = open_volume(zipped(tmp_path / "a.zip", folder, inside=inside, skip="0.1.2"))
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 1
    assert volume.read((0, 8, 16), (1, 9, 17)).item() == 7


def test_an_image_of_a_zarr_in_a_zip_file_is_chosen_as_of_a_folder(tmp_path, voxels):
    zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"bioformats2raw.layout": 3}})
    for number in range(2):
        extents = {"voxel_size_nm": (40, 4, 4), "chunks": (4, 8, 8)}
        write_ome_zarr(tmp_path / f"a.zarr/{number}", voxels[number:], axes="zyx", **extents)
    root = zipped(tmp_path / "root.ozx", tmp_path / "a.zarr")
    below = zipped(tmp_path / "below.zip", tmp_path / "a.zarr", inside=".")
    assert f"name one, as {root}::0; there are 0 uint16(6, 20, 26) 40,4,4 nm, 1" in why(root)
    assert f"name one, as {below}::a.zarr::0; there are" in why(below)
    for target in (f"{root}::1", f"{below}::1", f"{below}::a.zarr::1", f"{below}::a.zarr/1"):
        volume = open_volume(target)
        np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels[1:])
        assert open_volume(volume.url) == volume


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path, voxels, write_array):
    folder = write_array(voxels)
    content = Path(zipped(tmp_path / "a.zip", folder)).read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[:-100])
    assert "cut.zip cannot be opened as zip: File is not a zip file" in why(tmp_path / "cut.zip")
    assert why(tmp_path / "none.ozx") == f"{tmp_path / 'none.ozx'} does not exist"
    (tmp_path / "empty").mkdir()
    assert "holds no zarr" in why(zipped(tmp_path / "empty.zip", str(tmp_path / "empty")))
    assert why(f"{tmp_path / 'a.zip'}::b").endswith("a.zip::b does not exist")


def test_a_chunk_that_is_damaged_is_an_error(tmp_path, voxels, write_array):
    path = Path(zipped(tmp_path / "a.zip", write_array(voxels)))
    volume = open_volume(path)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("c/0/0/0").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 60 : offset + 90] = bytes(30)
    path.write_bytes(content)
    assert volume.read((0, 8, 8), (1, 9, 9)).item() == voxels[0, 8, 8]
    with pytest.raises(VolumeReadError, match=r"cannot read .*a\.zip at \[0:1,0:1,0:1\]"):
        volume.read((0, 0, 0), (1, 1, 1))
