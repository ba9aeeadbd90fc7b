"""Folders of planes: their order, what they must have in common, and what is refused."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from cte_dask.errors import VolumeError, VolumeReadError
from cte_dask.storage.stored_file import StoredFile
from cte_dask.volume import open_volume


def written(folder: Path, planes: np.ndarray, suffix: str, first: int = 8) -> Path:
    """Write planes under the numbers from ``first`` on."""
    folder.mkdir(exist_ok=True)
    for number, plane in enumerate(planes, first):
        path = folder / f"z{number}{suffix}"
        if suffix == ".png":
            path.write_bytes(imagecodecs.png_encode(plane))
        elif suffix == ".jpg":
            path.write_bytes(imagecodecs.jpeg8_encode(plane, level=95))
        else:
            tifffile.imwrite(path, plane, photometric="minisblack")
    return folder


def why(target: object) -> str:
    with pytest.raises(VolumeError) as refusal:
        open_volume(target)
    line = str(refusal.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_planes_are_read_by_box_in_the_order_of_their_numbers(tmp_path, voxels, suffix, dtype):
    voxels = voxels.astype(dtype)
    folder = written(tmp_path / "planes", voxels, suffix)  # z8 … z13
    (folder / ".DS_Store").write_bytes(b"")
    volume = open_volume(folder)
    assert (volume.axes, volume.shape, volume.dtype) == ("zyx", voxels.shape, voxels.dtype)
    assert (volume.url, volume.chunks) == (str(folder), (1, 20, 26))
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape), voxels)
    np.testing.assert_array_equal(volume.read((1, 3, 5), (4, 19, 23)), voxels[1:4, 3:19, 5:23])


def test_of_tiled_planes_only_the_tiles_of_a_box_are_read(tmp_path, voxels, monkeypatch):
    (tmp_path / "planes").mkdir()
    for z, plane in enumerate(voxels):
        options = {"tile": (16, 16), "compression": "zlib"}
        tifffile.imwrite(tmp_path / "planes" / f"{z}.tif", plane, **options)
    volume = open_volume(tmp_path / "planes")
    assert volume.chunks == (1, 16, 16)
    reads: list[str] = []
    read = StoredFile.read

    def counted(file: StoredFile, ranges: list[tuple[int, int]]) -> list[bytes]:
        reads.extend(Path(file.name).name for _ in ranges)
        return read(file, ranges)

    monkeypatch.setattr(StoredFile, "read", counted)
    np.testing.assert_array_equal(volume.read((2, 0, 0), (3, 9, 9)), voxels[2:3, :9, :9])
    assert reads == ["2.tif"]


def test_a_single_png_is_a_volume_of_one_plane(tmp_path, voxels):
    path = written(tmp_path, voxels[:1], ".png") / "z8.png"
    volume = open_volume(path)
    assert (volume.url, volume.shape) == (str(path), (1, 20, 26))
    np.testing.assert_array_equal(volume.read((0, 1, 2), (1, 9, 9)), voxels[:1, 1:9, 2:9])
    assert "holds one plane: leave out ::3" in why(f"{path}::3")
    assert why(tmp_path / "none.png") == f"{tmp_path / 'none.png'} does not exist"


def test_a_file_that_is_no_plane_like_the_others_is_named(tmp_path, voxels):
    folder = written(tmp_path / "planes", voxels, ".png")
    written(folder, voxels[:1, :10], ".png", first=10)
    assert "z10.png is a plane of uint16(10, 26), but the first one, z8.png, is of" in why(folder)
    written(folder, voxels[:1].astype(np.uint8), ".png", first=10)
    assert "z10.png is a plane of uint8(20, 26)" in why(folder)
    colours = np.zeros((20, 26, 3), np.uint8)
    (folder / "z10.png").write_bytes(imagecodecs.png_encode(colours))
    assert "z10.png is a plane of uint8(20, 26, 3), but the first one" in why(folder)
    palette = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBB", 13, b"IHDR", 26, 20, 8, 3)
    (folder / "z10.png").write_bytes(palette)
    assert "z10.png is no PNG of 8 or 16 bits, grey or RGB (colour type 3, 8 bits)" in why(folder)
    written(folder, voxels[:1], ".tif", first=10)
    assert "holds planes such as z8.png, and z10.tif, which is none of them" in why(folder)


def test_a_tiff_of_several_pages_or_samples_is_no_plane(tmp_path, voxels):
    folder = written(tmp_path / "planes", voxels, ".tif")
    tifffile.imwrite(folder / "z9.tif", voxels, photometric="minisblack")
    assert "z9.tif holds 6 pages of YX, not one plane, grey or RGB" in why(folder)
    five = np.zeros((20, 26, 5), np.uint16)
    tifffile.imwrite(folder / "z9.tif", five, photometric="minisblack", planarconfig="contig")
    assert "z9.tif holds 1 pages of YXS, not one plane, grey or RGB" in why(folder)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_planes_in_colour_have_a_channel_a_sample(tmp_path, suffix):
    colours = np.random.default_rng(0).integers(0, 255, (3, 20, 26, 3), np.uint8)
    folder = tmp_path / "planes"
    folder.mkdir()
    for number, plane in enumerate(colours):
        if suffix == ".png":
            (folder / f"{number}.png").write_bytes(imagecodecs.png_encode(plane))
        else:
            tifffile.imwrite(folder / f"{number}.tif", plane, photometric="rgb")
    volume = open_volume(folder, channel=1)
    assert (volume.axes, volume.shape) == ("zyxc", (3, 20, 26))
    assert volume.channel_names == ("red", "green", "blue")
    np.testing.assert_array_equal(
        volume.read((1, 2, 3), (3, 20, 26)), colours[1:, 2:, 3:, 1], strict=True
    )
    both = replace(volume, channels=(2, 0)).read_channels((1, 2, 3), (3, 20, 26))
    np.testing.assert_array_equal(both, colours[1:, 2:, 3:, [2, 0]].transpose(3, 0, 1, 2))
    assert "choose --channel 0..2 (0 = red, 1 = green, 2 = blue)" in why(folder)


def test_anything_beside_the_planes_is_named(tmp_path, voxels):
    folder = written(tmp_path / "planes", voxels, ".png")
    (folder / "more").mkdir()
    assert "and more, which is none of them" in why(folder)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_damaged_plane_is_an_error_that_names_its_file(tmp_path, voxels, suffix):
    folder = written(tmp_path / "planes", voxels, suffix)
    volume, path = open_volume(folder), folder / f"z9{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert volume.read((0, 0, 0), (1, 1, 1)).item() == voxels[0, 0, 0]
    with pytest.raises(VolumeReadError, match=rf"z9\{suffix}"):
        volume.read((1, 0, 0), (2, 20, 26))
    path.write_bytes(content[:9])
    assert f"z9{suffix}" in why(folder)


def test_planes_that_come_go_or_change_meanwhile_are_errors(tmp_path, voxels):
    folder = written(tmp_path / "planes", voxels, ".png")
    volume = open_volume(folder)
    written(folder, voxels[:1, :10], ".png", first=9)
    with pytest.raises(VolumeReadError, match=r"z9\.png has changed since it was opened"):
        volume.read((1, 0, 0), (2, 20, 26))
    (folder / "z9.png").rename(folder / "z99.png")
    with pytest.raises(VolumeReadError, match="it has other files than when it was opened"):
        volume.read((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(("name", "suffix"), [("imagecodecs", ".png"), ("tifffile", ".tif")])
def test_the_missing_library_is_named_with_its_extra(tmp_path, voxels, monkeypatch, name, suffix):
    folder = written(tmp_path / "planes", voxels, suffix)
    monkeypatch.setitem(sys.modules, name, None)
    assert "files need pip install 'cte-dask[tiff]'" in why(folder)


def test_folders_without_planes_and_zarrs_with_pictures_are_left_to_others(
    tmp_path, voxels, write_array
):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no plane")
    assert "is not a zarr: no zarr.json" in why(tmp_path / "text")
    path = write_array(voxels)
    written(Path(path), voxels, ".png")
    assert open_volume(path).chunks == (6, 8, 8)


@pytest.fixture
def pictures() -> np.ndarray:
    """Return two smooth planes in colour, which JPEG keeps well (z, y, x, samples)."""
    z, y, x, c = np.indices((2, 40, 52, 3))
    return (40 * z + 2 * y + x + 20 * c).astype(np.uint8)


@pytest.mark.parametrize("samples", [1, 3])
def test_jpeg_is_read_as_it_is_decoded_and_said_to_be_lossy(tmp_path, pictures, samples):
    planes = pictures if samples == 3 else np.ascontiguousarray(pictures[..., 0])
    folder = written(tmp_path / "planes", planes, ".jpg")
    colour = {"channel": 1} if samples == 3 else {}
    for target, number in ((folder, 2), (folder / "z8.jpg", 1)):
        volume = open_volume(target, **colour)
        assert volume.shape == (number, 40, 52)
        assert any("JPEG is lossy" in note for note in volume.notes)
        first = planes[0, ..., 1] if samples == 3 else planes[0]
        content = (folder / "z8.jpg").read_bytes()
        decoded = imagecodecs.jpeg8_decode(content).reshape(40, 52, -1)[..., samples // 2]
        np.testing.assert_array_equal(volume.read((0, 3, 5), (1, 33, 45))[0], decoded[3:33, 5:45])
        assert np.abs(decoded.astype(int) - first).max() < 8


def test_a_jpeg_is_known_by_its_content_whatever_its_name(tmp_path, pictures):
    written(tmp_path, np.ascontiguousarray(pictures[:1, ..., 0]), ".jpg")
    for name in ("a.png", "a.dat"):
        (tmp_path / "z8.jpg").rename(tmp_path / name)
        assert open_volume(tmp_path / name).shape == (1, 40, 52)
        (tmp_path / name).rename(tmp_path / "z8.jpg")


def test_a_jpeg_that_was_cut_off_is_an_error_and_not_filled_up(tmp_path, pictures):
    written(tmp_path, np.ascontiguousarray(pictures[:1, ..., 0]), ".jpg")
    path = tmp_path / "z8.jpg"
    volume, content = open_volume(path), path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(VolumeReadError, match=r"z8\.jpg is cut off"):
        volume.read((0, 0, 0), (1, 1, 1))
    path.write_bytes(content[:40])
    assert "z8.jpg is damaged or cut off before its extents" in why(path)
    path.write_bytes(b"no picture")
    assert "z8.jpg is no PNG or JPEG, or cut off" in why(path)


def test_a_jpeg_of_four_samples_is_refused(tmp_path, pictures):
    four = np.concatenate([pictures[0], pictures[0, ..., :1]], axis=-1)
    (tmp_path / "a.jpg").write_bytes(
        imagecodecs.jpeg8_encode(four, colorspace="cmyk", outcolorspace="cmyk")
    )
    assert "a.jpg is no JPEG of 8 bits, grey or RGB (4 samples of 8 bits)" in why(
        tmp_path / "a.jpg"
    )
