"""Files that hold one grey plane, PNG or TIFF: their extents without their voxels, and a box."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, cause
from cte_dask.volume.file_source import FileKind, library
from cte_dask.volume.tiff_source import open_series, remarks

__all__ = ["PNG", "PNG_SUFFIXES", "TIFF_SUFFIXES", "plane_type", "read_plane"]

PNG_SUFFIXES = (".png",)
TIFF_SUFFIXES = (".tif", ".tiff")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG = FileKind("PNG", PNG_SUFFIXES, (SIGNATURE,))
GREY = 0

PlaneType = tuple[tuple[int, int], str]
"""Extents along y and x, and the name of the element type."""


def plane_type(file: str) -> PlaneType:
    """Return extents and element type of a plane; only the head of the file is read.

    Raises
    ------
    VolumeError
        If the file is damaged, or holds anything but one plane of one sample a voxel.
    """
    read = _tiff_type if file.lower().endswith(TIFF_SUFFIXES) else _png_type
    try:
        return read(file)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # a damaged head raises whatever it leads to
        raise VolumeError(f"{file} cannot be opened as an image: {cause(error)}") from error


def read_plane(file: str, y: range, x: range) -> NDArray[Any]:
    """Return rows and columns of a plane.

    Raises
    ------
    VolumeError
        If the file ends before they do.
    """
    if file.lower().endswith(TIFF_SUFFIXES):
        series = open_series(file, 0, 0)
        if len(series.shape) != 2:
            raise VolumeError(f"{file} has changed since it was opened: open it again")
        return series.read([], {"Y": y, "X": x})
    imagecodecs = library("imagecodecs", extra="tiff", kind="PNG")
    with open(file, "rb") as opened:
        content = opened.read()
    plane: NDArray[Any] = imagecodecs.png_decode(content)
    return plane[y.start : y.stop, x.start : x.stop]


def _tiff_type(file: str) -> PlaneType:
    tifffile = library("tifffile", extra="tiff", kind="TIFF")
    with remarks(), tifffile.TiffFile(file) as tiff:
        page, count = tiff.pages.first, len(tiff.pages)
        if count != 1 or page.axes != "YX":
            raise VolumeError(
                f"{file} holds {count} pages of {page.axes}, not one grey plane: name it by itself"
            )
        return (int(page.imagelength), int(page.imagewidth)), np.dtype(page.dtype).name


def _png_type(file: str) -> PlaneType:
    """Read the header, see https://www.w3.org/TR/png-3/#11IHDR."""
    library("imagecodecs", extra="tiff", kind="PNG")
    with open(file, "rb") as opened:
        head = opened.read(26)
    if len(head) < 26 or not head.startswith(SIGNATURE):
        raise VolumeError(f"{file} is no PNG, or cut off")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if colour != GREY or bits not in (8, 16):
        raise VolumeError(
            f"{file} is not a grey PNG of 8 or 16 bits (colour type {colour}, {bits} bits): save "
            "one channel as grey"
        )
    return (height, width), f"uint{bits}"
