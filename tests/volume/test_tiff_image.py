"""Series of TIFF files: which one, its axes, levels and voxel size, lazily, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cte_dask.errors import VolumeError, VolumeReadError
from cte_dask.storage.stored_file import StoredFile
from cte_dask.volume import open_volume

OME_SIZE = {"PhysicalSizeX": 0.0092, "PhysicalSizeY": 0.0092, "PhysicalSizeZ": 0.04}
IMAGEJ = {"axes": "ZYX", "spacing": 2.0}
TILED = {"tile": (16, 16), "compression": "zlib"}


def why(target: object) -> str:
    with pytest.raises(VolumeError) as refusal:
        open_volume(target)
    line = str(refusal.value)
    assert "\n" not in line
    return line


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of bytes of each read of a file."""
    done: list[int] = []
    read = StoredFile.read

    def counted(file: StoredFile, ranges: list[tuple[int, int]]) -> list[bytes]:
        done.extend(length for _, length in ranges)
        return read(file, ranges)

    monkeypatch.setattr(StoredFile, "read", counted)
    return done


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"metadata": None, "compression": "lzw", "rowsperstrip": 3, "predictor": True},
        {"photometric": "minisblack", "bigtiff": True, **TILED},
        {"ome": True, "metadata": {"axes": "ZYX"}, **TILED},
        {"photometric": "minisblack", "byteorder": ">", **TILED},
        {"photometric": "minisblack", "predictor": True, **TILED, "compression": "zstd"},
    ],
)
def test_a_box_of_a_stack_is_that_of_the_array(
    tmp_path: Path, voxels: np.ndarray, options: dict[str, Any]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels, **options)
    volume = open_volume(tmp_path / "a.tif")
    assert (volume.axes, volume.shape, volume.dtype) == ("zyx", voxels.shape, voxels.dtype)
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)
    np.testing.assert_array_equal(volume.read((1, 3, 5), (4, 19, 23)), voxels[1:4, 3:19, 5:23])


def test_tables_that_the_tiles_of_a_page_share_are_used(tmp_path, voxels):
    options = {"photometric": "minisblack", **TILED, "compression": "jpeg"}
    tifffile.imwrite(tmp_path / "a.tif", voxels.astype(np.uint8), **options)
    volume = open_volume(tmp_path / "a.tif")
    expected = tifffile.imread(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_of_a_file_only_the_rows_or_tiles_of_a_box_are_read(tmp_path, lengths, compression):
    image = np.random.default_rng(0).integers(0, 256, (32, 256, 256)).astype(np.uint8)
    options = {} if compression is None else {"tile": (64, 64), "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **options)
    volume = open_volume(tmp_path / "a.tif")
    assert volume.chunks == ((1, 256, 256) if compression is None else (1, 64, 64))
    assert not lengths
    box = volume.read((3, 70, 70), (5, 80, 80))
    np.testing.assert_array_equal(box, image[3:5, 70:80, 70:80])
    assert len(lengths) == 2
    assert sum(lengths) <= (2 * 10 * 256 if compression is None else 2 * 65 * 64)


def test_planes_of_a_large_imagej_file_have_one_page(tmp_path, voxels):
    # as ImageJ writes beyond 4 GB: one page, the rest behind it
    about = {"axes": "ZYX"}
    tifffile.imwrite(tmp_path / "a.tif", voxels, imagej=True, truncate=True, metadata=about)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1
    volume = open_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.read((2, 1, 1), (5, 9, 9)), voxels[2:5, 1:9, 1:9])


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, TILED])
def test_a_channel_picks_a_sample_of_rgb(tmp_path, planes, options, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)
    stored = image if planes == "contig" else np.moveaxis(image, -1, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planes, **options)
    assert "choose --channel 0..2 (0 = red, 1 = green, 2 = blue)" in why(tmp_path / "a.tif")
    volume = open_volume(tmp_path / "a.tif", channel=1)
    box = volume.read((1, 3, 5), (3, 39, 43))
    np.testing.assert_array_equal(box, image[1:3, 3:39, 5:43, 1])
    reads, read = [], StoredFile.read
    monkeypatch.setattr(StoredFile, "read", lambda file, r: reads.extend(r) or read(file, r))
    colours = replace(volume, channels=(2, 0, 1)).read_channels((1, 3, 5), (3, 39, 43))
    np.testing.assert_array_equal(
        colours, image[1:3, 3:39, 5:43, [2, 0, 1]].transpose(3, 0, 1, 2), strict=True
    )
    assert len(set(reads)) == len(reads), "no part of the file is read twice"


def test_time_and_channels_are_picked_from_a_hyperstack(tmp_path):
    image = np.arange(2 * 3 * 2 * 8 * 8, dtype=np.uint16).reshape(2, 3, 2, 8, 8)
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata={"axes": "TZCYX"})
    volume = open_volume(tmp_path / "a.ome.tif", time=1, channel=0)
    assert volume.axes == "tzcyx"
    np.testing.assert_array_equal(volume.read((0, 0, 0), (3, 8, 8)), image[1, :, 0])


def test_levels_of_a_pyramid_are_levels_of_the_target(tmp_path, voxels):
    about = {"axes": "ZYX", **OME_SIZE}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(voxels, subifds=1, metadata=about, **TILED)
        file.write(voxels[:, ::2, ::2], subfiletype=1, **TILED)
    fine = open_volume(tmp_path / "a.ome.tif")
    coarse = open_volume(tmp_path / "a.ome.tif", training_voxel_size=(40, 20, 20))
    assert (str(fine.voxel_size), str(coarse.voxel_size)) == ("40,9.2,9.2 nm", "40,18.4,18.4 nm")
    assert (coarse.level, coarse.translation) == (1, (0.0, 4.6, 4.6))
    np.testing.assert_array_equal(coarse.read((0, 0, 0), coarse.shape), voxels[:, ::2, ::2])


def test_several_series_are_listed_and_chosen_by_number(tmp_path, voxels):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(voxels)
        file.write(voxels[:2, :8, :8])
    assert "holds 2 series: name one by its number" in why(path)
    assert "0 '' uint16(6, 20, 26), 1 '' uint16(2, 8, 8)" in why(path)
    assert "holds no series '2'" in why(f"{path}::2")
    volume = open_volume(f"{path}::1")
    assert (volume.url, volume.shape) == (f"{path}::1", (2, 8, 8))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"metadata": {"axes": "ZYX", **OME_SIZE}, "ome": True}, "40,9.2,9.2 nm"),
        ({"metadata": {"axes": "ZYX", "PhysicalSizeX": 2.0}, "ome": True}, "?,?,2000 nm"),
        ({"metadata": {**IMAGEJ, "unit": "\\u00B5m"}, "imagej": True}, "2000,500,500 nm"),
        ({"metadata": {**IMAGEJ, "unit": "pixel"}, "imagej": True}, None),
        ({"resolutionunit": "INCH"}, None),
    ],
)
def test_the_voxel_size_is_that_of_ome_or_imagej(tmp_path, voxels, options, size):
    dots = {"resolution": (2.0, 2.0)}
    tifffile.imwrite(tmp_path / "a.tif", voxels, **dots, **options)
    assert open_volume(tmp_path / "a.tif").describe()["voxel_size"] == size


def cut(path: Path, length: int) -> str:
    """Write a file again without its last bytes."""
    path.write_bytes(path.read_bytes()[:-length])
    return str(path)


def test_a_file_whose_voxels_are_cut_off_is_an_error_and_never_zeros(tmp_path, voxels):
    options = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack", "truncate": True}
    tifffile.imwrite(tmp_path / "a.tif", voxels, **options)
    volume = open_volume(cut(tmp_path / "a.tif", 100))
    assert volume.read((0, 0, 0), (1, 1, 1)).item() == voxels[0, 0, 0]
    with pytest.raises(VolumeReadError, match=r"a\.tif is truncated: 940 of 1040 bytes"):
        volume.read((5, 0, 0), (6, 20, 26))


def read_all(path: str) -> None:
    volume = open_volume(path)
    volume.read((0, 0, 0), volume.shape)


@pytest.mark.parametrize("options", [{"metadata": None}, {"ome": True}, TILED])
@pytest.mark.parametrize("length", [100, 1200, 3000])
def test_a_file_that_is_cut_off_is_never_a_smaller_volume(tmp_path, voxels, options, length):
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", **options)
    path = cut(tmp_path / "a.tif", length)
    with pytest.raises((VolumeError, VolumeReadError), match=r"a\.tif") as refusal:
        read_all(path)
    assert "\n" not in str(refusal.value)


def test_an_image_of_several_ome_files_is_read_and_one_that_is_gone_is_an_error(tmp_path, voxels):
    names = ["a.ome.tif", "b.ome.tif"]
    places = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID>'
        "</TiffData>"
        for z, name in enumerate(names)
    )
    pixels = 'DimensionOrder="XYZCT" Type="uint16" SizeX="26" SizeY="20" SizeZ="2" SizeC="1"'
    for z, name in enumerate(names):
        xml = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{z}"><Image><Pixels {pixels} SizeT="1">{places}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / name, voxels[z], description=xml, metadata=None)
    volume = open_volume(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels[:2])
    (tmp_path / "b.ome.tif").unlink()
    volume = open_volume(tmp_path / "a.ome.tif")
    assert any("failed to read 'b.ome.tif'" in note for note in volume.notes)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (1, 20, 26)), voxels[:1])
    with pytest.raises(VolumeReadError, match=r"b\.ome\.tif"):
        volume.read((1, 0, 0), (2, 20, 26))


def test_tiles_with_a_depth_are_refused_with_the_name_of_the_file(tmp_path, voxels):
    options = {"photometric": "minisblack", "tile": (16, 16, 16), "volumetric": True}
    tifffile.imwrite(tmp_path / "a.tif", voxels, **options)
    assert "a.tif cannot be opened as TIFF: pages with axes ZYX are not" in why(tmp_path / "a.tif")


def test_files_that_are_no_tiff_or_not_here_are_refused_in_one_line(tmp_path):
    (tmp_path / "b.tif").write_bytes(b"II*\0\xff\xff\xff\x7f")
    assert str(tmp_path / "b.tif") in why(tmp_path / "b.tif")
    (tmp_path / "c.tif").write_text("no TIFF")
    assert "c.tif cannot be opened as TIFF" in why(tmp_path / "c.tif")


def test_tiles_that_are_omitted_are_counted_and_planes_that_are_lost_are_errors(tmp_path, voxels):
    options = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack", **TILED}
    holes = voxels.copy()
    holes[1, :16, :16] = 0
    tiles = (None if not plane.any() else plane for plane in _tiles(holes))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tiles, shape=voxels.shape, dtype=voxels.dtype, **options)
    volume = open_volume(path)
    assert volume.missing_chunks((0, 0, 0), volume.shape) == 1
    assert volume.missing_chunks((2, 0, 0), (6, 20, 26)) == 0
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), holes)
    with tifffile.TiffWriter(tmp_path / "b.ome.tif") as file:
        file.write(voxels[:4], metadata={"axes": "ZYX"})
    content = (tmp_path / "b.ome.tif").read_bytes()
    content = content.replace(b'SizeZ="4"', b'SizeZ="5"').replace(b'PlaneCount="4"', b" " * 14)
    (tmp_path / "b.ome.tif").write_bytes(content)
    volume = open_volume(tmp_path / "b.ome.tif")
    assert volume.notes[-1] == "tifffile: OME series is missing 4 frames"
    with pytest.raises(VolumeReadError, match="page 4 is described, but in no file"):
        volume.read((4, 0, 0), (5, 1, 1))


def _tiles(voxels: np.ndarray) -> Iterator[np.ndarray]:
    for z, y, x in np.ndindex(len(voxels), 2, 2):
        tile = voxels[z, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        yield np.pad(tile, [(0, 16 - n) for n in tile.shape])


def test_a_file_that_was_replaced_meanwhile_is_an_error(tmp_path, voxels):
    options = {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", voxels, **options)
    volume = open_volume(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", voxels[:3], **options)
    with pytest.raises(VolumeReadError, match="it has changed since it was opened"):
        volume.read((0, 0, 0), (1, 1, 1))


def test_the_missing_library_is_named_with_its_extra(tmp_path, voxels, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert "TIFF files need pip install 'cte-dask[tiff]'" in why(tmp_path / "a.tif")
