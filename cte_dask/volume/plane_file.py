"""Files of one plane, PNG, JPEG or TIFF, grey or in colour: extents without voxels, and a box."""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.stored_file import StoredFile, suffix_path
from cte_dask.volume.file_source import FileKind, library
from cte_dask.volume.tiff_source import open_series, open_tiff, remarks

__all__ = [
    "COLOURS",
    "JPEG",
    "JPEG_SUFFIXES",
    "PNG",
    "PNG_SUFFIXES",
    "RGB",
    "TIFF_SUFFIXES",
    "PlaneType",
    "plane_type",
    "read_plane",
]

PNG_SUFFIXES = (".png",)
JPEG_SUFFIXES = (".jpg", ".jpeg")
TIFF_SUFFIXES = (".tif", ".tiff")
PLANES = ("YX", "YXS")
"""Axes of TIFF pages that are planes here."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG = FileKind("PNG", PNG_SUFFIXES, (SIGNATURE,), whole=True)
JPEG = FileKind("JPEG", JPEG_SUFFIXES, (b"\xff\xd8\xff",), whole=True)
END_OF_IMAGE, START_OF_SCAN = b"\xff\xd9", b"\xff\xda"
"""Markers of JPEG behind and before voxels, among which they cannot stand."""
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG before the extents, one a kind of compression."""
COLOURS = ("red", "green", "blue", "alpha")
"""Names of the samples of a voxel in colour."""
SAMPLES = {0: 1, 2: 3, 6: 4}
"""Colour types of PNG that are read, grey, RGB and RGB with alpha, and their samples a voxel."""
RGB = 2

PlaneType = tuple[tuple[int, int, int], str]
"""Extents along y and x, samples a voxel, and the name of the element type."""


def plane_type(file: StoredFile) -> PlaneType:
    """Return extents and element type of a plane; only the head of the file is read.

    Raises
    ------
    VolumeError
        If the file is damaged, or holds anything but one plane, grey or in colour.
    """
    read = _tiff_type if suffix_path(file.name).endswith(TIFF_SUFFIXES) else _picture_type
    try:
        return read(file)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # a damaged head raises whatever it leads to
        raise VolumeError(f"{file.name} cannot be opened as an image: {cause(error)}") from error


def read_plane(file: StoredFile, y: range, x: range) -> NDArray[Any]:
    """Return rows and columns of a plane, (y, x, samples).

    Raises
    ------
    VolumeError
        If the file ends before they do.
    """
    if suffix_path(file.name).endswith(TIFF_SUFFIXES):
        series = open_series(file, 0, 0)
        if series.axes not in PLANES:
            raise VolumeError(f"{file.name} has changed since it was opened: open it again")
        samples = range(dict(zip(series.axes, series.shape, strict=True)).get("S", 1))
        stored = series.read([], {"Y": y, "X": x, "S": samples})
        return stored[..., np.newaxis] if series.axes == "YX" else stored
    imagecodecs = library("imagecodecs", extra="tiff", kind="PNG and JPEG")
    with file.open() as opened:
        content = opened.read()
    is_jpeg = content.startswith(JPEG.magic)
    decode = imagecodecs.jpeg8_decode if is_jpeg else imagecodecs.png_decode
    # of a file that was cut off, the decoder fills up what is missing
    if is_jpeg and content.rfind(END_OF_IMAGE) < content.rfind(START_OF_SCAN):
        raise VolumeError(f"{file.name} is cut off")
    plane: NDArray[Any] = decode(content)
    return plane.reshape(*plane.shape[:2], -1)[y.start : y.stop, x.start : x.stop]


def _tiff_type(file: StoredFile) -> PlaneType:
    with remarks(), open_tiff(file) as tiff:
        page, count = tiff.pages.first, len(tiff.pages)
        if count != 1 or page.axes not in PLANES or not _grey_or_rgb(page):
            raise VolumeError(
                f"{file.name} holds {count} pages of {page.axes}, not one plane, grey or RGB: name "
                "it by itself"
            )
        extent = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
        return extent, np.dtype(page.dtype).name


def _grey_or_rgb(page: Any) -> bool:
    samples = int(page.samplesperpixel)
    return samples == 1 or (page.photometric == RGB and samples <= len(COLOURS))


def _picture_type(file: StoredFile) -> PlaneType:
    library("imagecodecs", extra="tiff", kind="PNG and JPEG")
    with file.open() as opened:
        head = opened.read(26)
        # by content: what a camera wrote may have been given the other name
        if head.startswith(JPEG.magic):
            return _jpeg_type(file.name, opened)
    return _png_type(file.name, head)


def _png_type(file: str, head: bytes) -> PlaneType:
    """Read the header, see https://www.w3.org/TR/png-3/#11IHDR."""
    if len(head) < 26 or not head.startswith(SIGNATURE):
        raise VolumeError(f"{file} is no PNG or JPEG, or cut off")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in SAMPLES or bits not in (8, 16):
        raise VolumeError(
            f"{file} is no PNG of 8 or 16 bits, grey or RGB (colour type {colour}, {bits} bits): "
            "save it so"
        )
    return (height, width, SAMPLES[colour]), f"uint{bits}"


def _jpeg_type(file: str, opened: BinaryIO) -> PlaneType:
    """Read segments up to the frame header, see https://www.w3.org/Graphics/JPEG/itu-t81.pdf."""
    opened.seek(len(START_OF_SCAN))  # as long as any marker
    while True:
        segment = opened.read(4)
        if len(segment) < 4 or segment[0] != 0xFF:
            raise VolumeError(f"{file} is damaged or cut off before its extents")
        if segment[1] in FRAMES:
            break
        opened.seek(int.from_bytes(segment[2:]) - 2, os.SEEK_CUR)
    bits, height, width, samples = struct.unpack(">BHHB", opened.read(6))
    if samples not in (1, 3) or bits != 8:
        raise VolumeError(
            f"{file} is no JPEG of 8 bits, grey or RGB ({samples} samples of {bits} bits): save it "
            "so"
        )
    return (height, width, samples), "uint8"
