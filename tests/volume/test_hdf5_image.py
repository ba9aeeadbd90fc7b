"""Datasets of HDF5 files: which one, its axes and voxel size, lazily, and what cannot be read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py._hl.dataset import Dataset

from cte_dask.errors import VolumeError, VolumeReadError
from cte_dask.volume import open_volume
from cte_dask.volume.formats import find_image


def written(path: Path, attributes: dict[str, Any] | None = None, **datasets: Any) -> Path:
    """Write datasets by name, all with the same attributes."""
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
            file[name].attrs.update(attributes or {})
    return path


def why(target: object) -> str:
    with pytest.raises(VolumeError) as refusal:
        open_volume(target)
    line = str(refusal.value)
    assert "\n" not in line
    return line


def test_the_only_dataset_that_can_be_an_image_is_taken(tmp_path, voxels):
    path = written(
        tmp_path / "a.hdf5", **{"volume/raw": voxels, "spectrum": [1, 2], "names": np.bytes_("a")}
    )
    assert open_volume(path).url == f"{path}::volume/raw"
    assert open_volume(f"{path}::volume").url == f"{path}::volume/raw"
    assert open_volume(f"file://{path}::/volume/raw/").url == f"{path}::volume/raw"


def test_an_hdf5_file_is_known_by_its_content_too(tmp_path, voxels):
    path = written(tmp_path / "volume.mat", data=voxels)
    assert open_volume(path).shape == voxels.shape


def test_several_datasets_are_listed_and_a_wrong_name_meets_the_nearest(tmp_path, voxels):
    path = written(tmp_path / "a.h5", **{"volume/raw": voxels, "volume/labels": voxels})
    assert "holds 2 datasets: name one, as" in why(path)
    assert "volume/labels uint16(6, 20, 26), volume/raw uint16(6, 20, 26)" in why(path)
    assert "unknown dataset 'volume/rwa', did you mean 'volume/raw'?" in why(f"{path}::volume/rwa")
    assert "holds no dataset of numbers" in why(written(tmp_path / "b.h5", spectrum=[1, 2]))


@pytest.mark.parametrize(
    ("attributes", "size", "translation"),
    [
        ({"element_size_um": np.float32([0.04, 0.0092, 0.0092])}, "40,9.2,9.2 nm", [0, 0, 0]),
        ({"resolution": [40, 4, 4], "offset": [80.0, 8.0, 6.0]}, "40,4,4 nm", [80, 8, 6]),
        ({}, None, None),
    ],
)
def test_the_voxel_size_is_that_of_the_attributes(tmp_path, voxels, attributes, size, translation):
    described = open_volume(written(tmp_path / "a.h5", attributes, raw=voxels)).describe()
    assert (described["voxel_size"], described["translation_nm"]) == (size, translation)


def test_a_voxel_size_that_is_none_is_noted(tmp_path, voxels):
    path = written(tmp_path / "a.h5", {"resolution": [0.0, 4.0]}, raw=voxels)
    volume = open_volume(path)
    assert volume.voxel_size is None
    assert "attribute resolution is not three lengths" in volume.notes[0]


def test_axes_are_those_of_the_labels_or_of_ilastik(tmp_path, voxels):
    tags = json.dumps({"axes": [{"key": k, "typeFlags": 2} for k in "xyzc"]})
    path = written(tmp_path / "a.h5", {"axistags": tags}, raw=voxels.T[..., None])
    volume = open_volume(path)
    assert (volume.axes, volume.shape) == ("xyzc", voxels.shape)
    np.testing.assert_array_equal(volume.read((1, 2, 3), (5, 9, 11)), voxels[1:5, 2:9, 3:11])
    with h5py.File(path, "a") as file:
        for dimension, name in zip(file["raw"].dims, ("x", "y", "z", "t"), strict=True):
            dimension.label = name
    assert open_volume(path).axes == "xyzt"


def test_a_box_decodes_its_own_chunks_and_no_others(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("raw", (64, 64, 64), "u2", chunks=(8, 8, 8), compression="gzip")
        data[...] = np.random.default_rng(0).integers(0, 60000, data.shape)
    elements = []
    read = Dataset.__getitem__

    def counted(self: Dataset, *arguments: Any) -> Any:
        values = read(self, *arguments)
        elements.append(np.size(values))
        return values

    volume = open_volume(tmp_path / "a.h5")
    assert volume.chunks == (8, 8, 8)
    monkeypatch.setattr(Dataset, "__getitem__", counted)
    # all chunks but one are overwritten: whoever decoded another one would fail
    with h5py.File(tmp_path / "a.h5", "r") as file:
        chunks = [file["raw"].id.get_chunk_info(i) for i in range(512)]
    content = bytearray((tmp_path / "a.h5").read_bytes())
    for chunk in chunks:
        if chunk.chunk_offset != (8, 16, 24):
            content[chunk.byte_offset : chunk.byte_offset + 16] = bytes(16)
    (tmp_path / "a.h5").write_bytes(content)
    volume.read((8, 16, 24), (16, 24, 32))
    assert elements == [512]
    with pytest.raises(VolumeReadError, match=r"cannot read .*a\.h5::raw at \[0:1,0:1,0:1\]"):
        volume.read((0, 0, 0), (1, 1, 1))


def test_chunks_that_were_never_written_are_counted(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("raw", (4, 16, 16), "i2", chunks=(2, 8, 8), fillvalue=7)
        data[:2, :8, :8] = 1
    volume = open_volume(tmp_path / "a.h5")
    assert volume.fill_value == 7
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 7
    assert volume.missing_chunks((0, 0, 0), (2, 8, 8)) == 0
    assert volume.read((2, 0, 0), (3, 1, 1)).item() == 7


def test_a_big_endian_dataset_and_a_mask_of_booleans_are_read(tmp_path, voxels):
    path = written(tmp_path / "a.h5", raw=voxels.astype(">u2"), mask=voxels > 9000)
    volume = open_volume(f"{path}::raw", mask=f"{path}::mask")
    assert volume.read((0, 0, 0), (1, 2, 3)).dtype == np.dtype("=u2")
    np.testing.assert_array_equal(volume.read_mask((0, 0, 0), volume.shape), voxels > 9000)


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path, voxels):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=voxels, compression="gzip")
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    assert "cut.h5 cannot be opened as HDF5" in why(tmp_path / "cut.h5")
    assert "truncated file" in why(tmp_path / "cut.h5")
    name = content.index(b"deflate\0")  # the code of the filter stands 8 bytes before its name
    other = content[: name - 8] + (32015).to_bytes(2, "little") + content[name - 6 :]
    (tmp_path / "filter.h5").write_bytes(other)
    assert "filter 32015 (deflate), which is not installed" in why(tmp_path / "filter.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    assert "text.h5 cannot be opened as HDF5" in why(tmp_path / "text.h5")
    assert why(tmp_path / "none.h5::raw") == f"{tmp_path / 'none.h5'} does not exist"
    kinds = np.zeros((2, 2), [("a", "u1"), ("b", "u1")])
    assert "want integers or real" in why(f"{written(tmp_path / 'b.h5', raw=kinds)}::raw")


def test_a_file_that_was_replaced_meanwhile_is_an_error(tmp_path, voxels):
    volume = open_volume(written(tmp_path / "a.h5", raw=voxels))
    written(tmp_path / "a.h5", raw=voxels[:3])
    with pytest.raises(VolumeReadError, match="it has changed since it was opened"):
        volume.read((0, 0, 0), (1, 1, 1))


def test_the_missing_library_is_named_with_its_extra(tmp_path, voxels, monkeypatch):
    path = written(tmp_path / "a.h5", raw=voxels)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "HDF5 files need pip install 'cte-dask[h5]'" in why(path)


def test_directories_are_left_to_zarr(tmp_path, write_array, voxels):
    assert find_image(write_array(voxels, "volume.h5"), {}).name.endswith("volume.h5")
