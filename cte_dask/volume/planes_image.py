"""Targets that are a folder of planes, PNG, JPEG or TIFF, grey or RGB, or one PNG or JPEG."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.stores import absolute, is_remote
from cte_dask.storage.zip_files import METADATA
from cte_dask.volume.file_source import FileSource
from cte_dask.volume.image import Image, Selection, checked_dtype
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.plane_file import (
    COLOURS,
    JPEG,
    JPEG_SUFFIXES,
    PNG,
    PNG_SUFFIXES,
    TIFF_SUFFIXES,
    PlaneType,
    plane_type,
    read_plane,
)
from cte_dask.volume.tiff_image import find_tiff

__all__ = ["find_planes"]

KINDS = (PNG_SUFFIXES, JPEG_SUFFIXES, TIFF_SUFFIXES)
LOSSY = "JPEG is lossy: models see its blocks of 8 by 8 voxels, too"
OF_SYSTEMS = ("Thumbs.db", "desktop.ini")
"""Files that systems put into every folder, besides those whose name begins with a dot."""


@dataclass(frozen=True)
class PlanesSource(FileSource):
    """Planes in files of their own, in the natural order of their names.

    Parameters
    ----------
    names
        Checksum of the names, in order: there may be too many to carry about.
    """

    names: int

    def _read(self, selection: Selection) -> NDArray[Any]:
        files = _plane_files(self.url)
        if len(files) != self.shape[0] or _checksum(files) != self.names:
            raise VolumeError("it has other files than when it was opened: open it again")
        ranges = [
            range(s, s + 1) if isinstance(s, int) else range(s.start, s.stop) for s in selection
        ]
        planes, y, x, *samples = ranges
        data = np.empty(tuple(map(len, ranges)), self.dtype)
        for plane, number in zip(data, planes, strict=True):
            box = _read_named(files[number], y, x)
            box = box[..., samples[0].start : samples[0].stop] if samples else box[..., 0]
            if box.shape != plane.shape or box.dtype.name != self.dtype:
                raise VolumeError(f"{files[number]} has changed since it was opened: open it again")
            plane[...] = box
        return data[tuple(0 if isinstance(s, int) else slice(None) for s in selection)]


def find_planes(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the volume of a folder of planes, or of one PNG or JPEG; None if the target is none.

    Parameters
    ----------
    target
        Path of a folder that is no zarr and holds images, or of a PNG or JPEG, on this machine.
    storage_options
        Not used.

    Raises
    ------
    VolumeError
        If a file of the folder cannot be read, or is no plane like the others.
    """
    place = PNG.parse(target) or JPEG.parse(target)
    if place is not None:
        if place.inside:
            raise VolumeError(f"{place.file} holds one plane: leave out ::{place.inside}")
        return _image(place.file, [place.file])
    if not isinstance(target, str | os.PathLike) or is_remote(os.fspath(target)):
        return None
    folder = absolute(target)
    try:
        files = _plane_files(folder) if os.path.isdir(folder) else []
    except OSError:  # a folder that cannot be listed may be a zarr all the same
        return None
    return _image(folder, files) if files else None


def _image(url: str, files: list[str]) -> Image:
    (height, width, samples), dtype = _common_type(files)
    colours = COLOURS[:samples] if samples > 1 else ()
    is_tiff = files[0].lower().endswith(TIFF_SUFFIXES)
    chunks, level, notes = _of_tiff(files[0]) if is_tiff else ((height, width), LevelScale(""), ())
    source = PlanesSource(
        url=url,
        shape=(len(files), height, width, *([samples] if colours else [])),
        dtype=checked_dtype(np.dtype(dtype), url),
        chunks=(1, *chunks[:2], *([samples] if colours else [])),
        names=_checksum(files),
    )
    axes = "zyxc" if colours else "zyx"
    lossy = (LOSSY,) if files[0].lower().endswith(JPEG_SUFFIXES) else ()
    return Image(url, axes, (level,), lambda _: source, channels=colours, notes=(*notes, *lossy))


def _common_type(files: list[str]) -> PlaneType:
    first = plane_type(files[0])
    for file in files[1:]:
        other = plane_type(file)
        if other != first:
            (shape, dtype), (others, others_dtype) = first, other
            raise VolumeError(
                f"{file} is a plane of {others_dtype}{_shown(others)}, but the first one, "
                f"{os.path.basename(files[0])}, is of {dtype}{_shown(shape)}: want all alike"
            )
    return first


def _shown(extents: tuple[int, int, int]) -> str:
    return str(extents[:2] if extents[2] == 1 else extents)


def _of_tiff(file: str) -> tuple[tuple[int, ...], LevelScale, tuple[str, ...]]:
    """Return chunks, voxel size and notes of the volume that begins with a plane."""
    image = find_tiff(file, {})
    source = None if image is None else image.open_level(0)
    if image is None or source is None or image.axes not in ("yx", "yxc"):
        # a description of OME leads to other files
        raise VolumeError(f"{file} belongs to an image of more than one plane: name it by itself")
    size = image.levels[0].voxel_size
    level = LevelScale("") if size is None else LevelScale("", size.lengths, (0.0,) * 3, size)
    return source.chunks, level, image.notes


def _read_named(file: str, y: range, x: range) -> NDArray[Any]:
    try:
        return read_plane(file, y, x)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they do, and do not know the file
        raise VolumeError(f"{file}: {cause(error)}") from error


def _plane_files(path: str) -> list[str]:
    """Return the files of the planes in order; none if the path is a zarr, or holds no image.

    Raises
    ------
    VolumeError
        If there is anything else beside them.
    """
    if os.path.isfile(path):
        return [path]
    # looked up first: an array of zarr may have millions of files to list
    if any(os.path.exists(os.path.join(path, name)) for name in METADATA):
        return []
    names = [n for n in os.listdir(path) if not n.startswith(".") and n not in OF_SYSTEMS]
    images = sorted(filter(_kind, names), key=_natural)
    if not images:
        return []
    kind = _kind(images[0])
    if others := sorted((name for name in names if _kind(name) != kind), key=_natural):
        raise VolumeError(
            f"{path} holds planes such as {images[0]}, and {others[0]}, which is none of them: "
            "want one folder with the planes alone"
        )
    return [os.path.join(path, name) for name in images]


def _kind(name: str) -> tuple[str, ...]:
    return next((kind for kind in KINDS if name.lower().endswith(kind)), ())


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts plane 9 before plane 10."""
    pieces = re.findall(r"\d+|\D+", name)
    return [(int(p), "") if p.isdecimal() else (-1, p.lower()) for p in pieces], name


def _checksum(files: list[str]) -> int:
    return zlib.crc32("\0".join(os.path.basename(file) for file in files).encode())
