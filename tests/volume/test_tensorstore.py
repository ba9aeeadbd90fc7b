"""N5 and Neuroglancer precomputed volumes: which array, where it lies, and what cannot be read."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
from numpy.typing import NDArray
from volume.test_other_formats import WRITERS

from cte_dask.volume import VolumeError, VolumeReadError, intensity_statistics, open_volume

ZERO = (0, 0, 0)


def n5(path: Path, voxels: NDArray[Any], **attributes: Any) -> Path:
    """Write a dataset of blocks of 8 along each axis."""
    metadata = {
        "dimensions": voxels.shape[::-1],
        "blockSize": [8] * voxels.ndim,
        "dataType": voxels.dtype.name,
        "compression": {"type": "gzip"},
        **attributes,
    }
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}, "create": True}
    tensorstore.open({**spec, "metadata": metadata}).result().write(voxels.T).result()
    return path


def precomputed(
    path: Path, *levels: NDArray[Any], kind: str = "image", **scale: Any
) -> tuple[Path, list[Any]]:
    """Write voxels zyx, a scale each half as fine as the one before."""
    arrays = []
    for number, voxels in enumerate(levels):
        f = 2**number
        settings = {
            "key": f"s{number}",
            "size": voxels.shape[::-1],
            "resolution": [4.0 * f, 4.0 * f, 40.0 * f],
            "chunk_size": [8, 8, 8],
            "encoding": "raw",
            **scale,
        }
        whole = {"data_type": voxels.dtype.name, "num_channels": 1, "type": kind}
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": whole,
            "scale_metadata": settings,
            "create": True,
        }
        array = tensorstore.open(spec).result()
        array[..., 0].write(voxels.T).result()
        arrays.append(array)
    return path, arrays


def why(target: object) -> str:
    with pytest.raises(VolumeError) as refusal:
        open_volume(target)
    line = str(refusal.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"resolution": [4, 5, 6], "units": ["nm"] * 3}, "6,5,4 nm"),
        ({"pixelResolution": {"dimensions": [0.004, 0.005, 0.006], "unit": "um"}}, "6,5,4 nm"),
        ({"transform": {"axes": [*"zyx"], "scale": [6, 5, 4], "units": ["nm"] * 3}}, "6,5,4 nm"),
        ({"resolution": [4, 5, 6], "unit": "furlong"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_voxel_size_of_an_n5_is_that_of_its_attributes(tmp_path, voxels, attributes, size):
    volume = open_volume(n5(tmp_path / "a.n5", voxels, **attributes))
    assert volume.describe()["voxel_size"] == size
    np.testing.assert_array_equal(volume.read(ZERO, volume.shape), voxels)


def test_the_datasets_of_an_n5_pyramid_are_its_levels(tmp_path, voxels):
    group = tmp_path / "a.n5" / "raw"
    n5(group / "s0", voxels)
    n5(group / "s1", voxels[::2, ::2, ::2], downsamplingFactors=[2, 2, 2])
    (group / "attributes.json").write_text(
        json.dumps({"pixelResolution": {"dimensions": [4, 4, 40], "unit": "nm"}})
    )
    coarse = open_volume(group, level=1)
    np.testing.assert_array_equal(coarse.read(ZERO, coarse.shape), voxels[::2, ::2, ::2])
    assert coarse.describe()["voxel_size"] == "80,8,8 nm"
    # corners coincide: the first voxel of the coarse level covers 0 to 80 nm, that of the fine 40
    assert coarse.describe()["translation_nm"] == [20.0, 2.0, 2.0]
    assert open_volume(group, training_voxel_size=(70.0, 8.0, 8.0)).level == 1
    assert open_volume(coarse.url, level=1) == coarse


def test_a_group_of_an_n5_lists_what_can_be_named_without_a_look_at_its_blocks(
    tmp_path, voxels, monkeypatch
):
    root = tmp_path / "a.n5"
    n5(root / "volume/raw", voxels)
    (root / "attributes.json").write_text('{"n5": "2.5.0"}')
    looked_at: list[str] = []
    walk = os.walk

    def counted(top):
        for folder, below, files in walk(top):
            looked_at.append(folder)
            yield folder, below, files

    monkeypatch.setattr(os, "walk", counted)
    assert f"name one, as n5://{root}/volume/raw; there are volume/raw" in why(root)
    assert [os.path.relpath(folder, root) for folder in looked_at] == [".", "volume", "volume/raw"]


def test_axes_that_an_n5_names_are_taken(tmp_path, voxels):
    volume = open_volume(n5(tmp_path / "a.n5", voxels, axes=["y", "z", "x"]))
    assert volume.axes == "yzx"
    assert volume.shape == (20, 26, 6)


def test_levels_and_place_of_a_precomputed_volume_are_those_of_its_info(tmp_path, voxels):
    path, _ = precomputed(
        tmp_path / "p", voxels, voxels[::2, ::2, ::2], voxel_offset=[16, 8, 2]
    )  # the same offset in the coarser voxels
    fine, coarse = (open_volume(path, level=level) for level in (0, 1))
    np.testing.assert_array_equal(fine.read(ZERO, fine.shape), voxels)
    np.testing.assert_array_equal(coarse.read((1, 2, 3), (3, 9, 8)), voxels[2:6:2, 4:18:2, 6:16:2])
    assert fine.describe()["translation_nm"] == [80.0, 32.0, 64.0]
    assert coarse.describe()["voxel_size"] == "80,8,8 nm"
    assert coarse.describe()["translation_nm"] == [2 * 80 + 20.0, 8 * 8 + 2.0, 16 * 8 + 2.0]


@pytest.mark.parametrize("shards", [False, True])
def test_compressed_labels_and_shards_are_read_to_the_bit(tmp_path, voxels, shards):
    labels = voxels.astype(np.uint32)
    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": "identity",
                "minishard_bits": 1, "shard_bits": 1, "data_encoding": "gzip"}  # fmt: skip
    path, _ = precomputed(
        tmp_path / "p",
        labels,
        kind="segmentation",
        encoding="compressed_segmentation",
        compressed_segmentation_block_size=[8, 8, 8],
        **({"sharding": sharding} if shards else {}),
    )
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(ZERO, volume.shape), labels)
    with pytest.raises(VolumeError, match="holds labels, by its metadata"):
        volume.check_no_labels()


def test_jpeg_is_read_as_it_is_decoded(tmp_path, voxels):
    grey = (voxels % 200).astype(np.uint8)
    path, (array,) = precomputed(tmp_path / "p", grey, encoding="jpeg", jpeg_quality=95)
    volume = open_volume(path)
    decoded = np.asarray(array[..., 0].read().result()).T
    np.testing.assert_array_equal(volume.read(ZERO, volume.shape), decoded)


@pytest.mark.parametrize("name", ["n5", "precomputed"])
def test_chunks_never_written_are_counted_and_damaged_ones_are_errors(tmp_path, voxels, name):
    target = WRITERS[name](tmp_path, voxels)
    volume = open_volume(target)
    assert volume.missing_chunks(ZERO, volume.shape) == 0
    chunks = sorted(p for p in Path(target).rglob("*") if p.is_file() and p.suffix != ".json")
    chunks = [p for p in chunks if p.name != "info"]
    chunks[0].unlink()
    chunks[-1].write_bytes(chunks[-1].read_bytes()[:20])
    assert volume.missing_chunks(ZERO, volume.shape) == 1
    with pytest.raises(VolumeReadError, match=f"cannot read {name}://") as told:
        volume.read(ZERO, volume.shape)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["n5", "precomputed"])
def test_a_volume_that_changed_is_not_read_as_it_was(tmp_path, voxels, name):
    volume = open_volume(WRITERS[name](tmp_path, voxels))
    WRITERS[name](tmp_path, voxels[:, :10])
    from cte_dask.volume import tensorstore_source

    tensorstore_source._opened.clear()  # as another process
    with pytest.raises(VolumeReadError, match="it has changed since it was opened"):
        volume.read(ZERO, (1, 8, 8))


def test_what_is_no_volume_is_told_in_one_line(tmp_path):
    assert "is no precomputed volume: there is no file 'info'" in why(f"precomputed://{tmp_path}")
    assert "is no N5 dataset and holds none" in why(f"n5://{tmp_path / 'a'}")
    (tmp_path / "info").write_text("{")
    assert "info cannot be read" in why(tmp_path)
    (tmp_path / "info").write_text('{"scales": [{"size": [1, 1, 1]}]}')
    assert "info describes no volume: 'resolution'" in why(tmp_path)
    assert "want a path, or a URL of http, https, s3 or gs" in why("n5://ftp://host/a.n5")
    assert "cannot be read" in why("precomputed://http://127.0.0.1:9/a")


def test_without_tensorstore_the_extra_is_named(tmp_path, voxels, monkeypatch):
    target = WRITERS["n5"](tmp_path, voxels)
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    assert "pip install 'cte-dask[tensorstore]'" in why(target)


def test_a_petabyte_of_precomputed_voxels_opens_from_its_info_alone(tmp_path):
    side = 100_000
    scale = {"key": "s0", "size": [side] * 3, "resolution": [4, 4, 40], "encoding": "raw",
             "chunk_sizes": [[128, 128, 128]], "voxel_offset": [0, 0, 0]}  # fmt: skip
    info = {"@type": "neuroglancer_multiscale_volume", "type": "image", "data_type": "uint8",
            "num_channels": 1, "scales": [scale]}  # fmt: skip
    (tmp_path / "info").write_text(json.dumps(info))
    volume = open_volume(tmp_path)
    assert math.prod(volume.shape) == 10**15
    assert volume.chunks == (128, 128, 128)
    with pytest.raises(ValueError, match="no intensities found"):
        intensity_statistics(volume)
