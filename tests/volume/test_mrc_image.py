"""MRC files: axes, voxel size and element type of the header, lazily, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cte_dask.errors import VolumeError, VolumeReadError
from cte_dask.volume import open_volume


def written(path: Path, data: np.ndarray, **header: Any) -> Path:
    """Write a file with some fields of the header as given."""
    with mrcfile.new(path, data, overwrite=True) as file:
        for name, value in header.items():
            file.header[name] = value
    return path


def why(target: object) -> str:
    with pytest.raises(VolumeError) as refusal:
        open_volume(target)
    line = str(refusal.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4", ">i2", ">f4"])
def test_every_real_element_type_is_read_by_box(tmp_path, voxels, dtype):
    data = (voxels % 120).astype(dtype)
    volume = open_volume(written(tmp_path / "a.mrc", data))
    assert volume.dtype == data.dtype.newbyteorder("=")
    assert (volume.axes, volume.chunks) == ("zyx", (1, 20, 26))
    np.testing.assert_array_equal(volume.read((1, 3, 5), (4, 19, 23)), data[1:4, 3:19, 5:23])


def test_a_header_behind_the_header_is_skipped(tmp_path, voxels):
    with mrcfile.new(tmp_path / "a.map", voxels) as file:
        file.set_extended_header(np.zeros(1000, "V1"))
    volume = open_volume(tmp_path / "a.map")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)


@pytest.mark.parametrize(("flag", "dtype"), [(0, "uint8"), (1, "int8")])
def test_bytes_of_imod_are_unsigned_unless_its_flag_says_so(tmp_path, flag, dtype):
    data = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    extra = np.frombuffer(bytes(40) + b"IMOD" + bytes([flag, 0, 0, 0]) + bytes(36), "V84")[0]
    volume = open_volume(written(tmp_path / "a.rec", data.view(np.int8), extra2=extra))
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), data.view(dtype))
    assert volume.dtype == dtype


def test_axes_in_another_order_are_those_of_the_header(tmp_path, voxels):
    path = written(tmp_path / "a.mrc", voxels.transpose(2, 1, 0), mapc=3, mapr=2, maps=1)
    volume = open_volume(path)
    assert (volume.axes, volume.shape) == ("xyz", voxels.shape)
    np.testing.assert_array_equal(volume.read((1, 3, 5), (4, 19, 23)), voxels[1:4, 3:19, 5:23])


def test_the_volumes_of_a_stack_are_time_points(tmp_path, voxels):
    path = written(tmp_path / "a.mrcs", np.stack([voxels, voxels[::-1]]))
    volume = open_volume(path, time=1)
    assert volume.axes == "tzyx"
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels[::-1])


@pytest.mark.parametrize(
    ("cell", "sampling", "size"),
    [
        ((2392, 1840, 2400), (26, 20, 6), "40,9.2,9.2 nm"),
        ((0, 0, 0), (26, 20, 6), None),
        ((2392, 1840, 2400), (26, 20, 0), "?,9.2,9.2 nm"),
    ],
)
def test_the_voxel_size_is_the_cell_by_its_sampling(tmp_path, voxels, cell, sampling, size):
    fields = dict(zip(("mx", "my", "mz"), sampling, strict=True))
    path = written(tmp_path / "a.mrc", voxels, cella=cell, **fields)
    assert open_volume(path).describe()["voxel_size"] == size


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path, voxels):
    content = written(tmp_path / "a.mrc", voxels).read_bytes()
    (tmp_path / "cut.mrc").write_bytes(content[:-100])
    assert "cut.mrc is cut off: it ends 100 bytes before its voxels do" in why(tmp_path / "cut.mrc")
    (tmp_path / "text.mrc").write_text("no MRC")
    assert "Couldn't read enough bytes for MRC header" in why(tmp_path / "text.mrc")
    (tmp_path / "other.mrc").write_bytes(bytes(4096))
    assert "Map ID string not found" in why(tmp_path / "other.mrc")
    packed = content[:12] + (101).to_bytes(4, "little") + content[16:]
    (tmp_path / "packed.mrc").write_bytes(packed)
    assert "Unrecognised mode '101'" in why(tmp_path / "packed.mrc")
    assert "want integers or real numbers" in why(
        written(tmp_path / "b.mrc", (voxels + 1j).astype("c8"))
    )
    assert why(tmp_path / "none.mrc") == f"{tmp_path / 'none.mrc'} does not exist"
    assert "holds one volume: leave out ::raw" in why(f"{tmp_path / 'a.mrc'}::raw")


def test_bytes_behind_the_voxels_are_noted(tmp_path, voxels):
    path = written(tmp_path / "a.mrc", voxels)
    path.write_bytes(path.read_bytes() + bytes(8))
    volume = open_volume(path)
    assert volume.notes == ("8 bytes follow the voxels and are not read",)
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)


def test_a_file_that_is_cut_off_or_replaced_meanwhile_is_an_error(tmp_path, voxels):
    path = written(tmp_path / "a.mrc", voxels)
    volume = open_volume(path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(VolumeReadError, match=r"cannot read .*a\.mrc at \[0:1,0:1,0:1\]"):
        volume.read((0, 0, 0), (1, 1, 1))
    written(path, voxels[:3])
    with pytest.raises(VolumeReadError, match="it has changed since it was opened"):
        volume.read((0, 0, 0), (1, 1, 1))


def test_the_missing_library_is_named_with_its_extra(tmp_path, voxels, monkeypatch):
    path = written(tmp_path / "a.mrc", voxels)
    monkeypatch.setitem(sys.modules, "mrcfile", None)
    assert "MRC files need pip install 'cte-dask[mrc]'" in why(path)
