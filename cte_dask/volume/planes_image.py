"""Targets that are a folder of planes, PNG, JPEG or TIFF, grey or RGB, or one PNG or JPEG."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.retries import read_patiently
from cte_dask.storage.stored_file import StoredFile, list_folder, suffix_path
from cte_dask.storage.stores import absolute, is_remote
from cte_dask.storage.zip_files import METADATA
from cte_dask.volume.file_source import StoredFileSource
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
from cte_dask.volume.zarr_source import not_zarr

__all__ = ["find_listed_planes", "find_planes"]

KINDS = (PNG_SUFFIXES, JPEG_SUFFIXES, TIFF_SUFFIXES)
LOSSY = "JPEG is lossy: models see its blocks of 8 by 8 voxels, too"
OF_SYSTEMS = ("Thumbs.db", "desktop.ini")
"""Files that systems put into every folder, besides those whose name begins with a dot."""

_MOST_LISTED = 32
_folders: dict[tuple[object, ...], list[str]] = {}


@dataclass(frozen=True)
class PlanesSource(StoredFileSource):
    """Planes in files of their own, in the natural order of their names.

    Parameters
    ----------
    names
        Checksum of the names, in order: there may be too many to carry about.
    """

    names: int

    def _read(self, selection: Selection) -> NDArray[Any]:
        files = self._files()
        ranges = [
            range(s, s + 1) if isinstance(s, int) else range(s.start, s.stop) for s in selection
        ]
        planes, y, x, *samples = ranges
        data = np.empty(tuple(map(len, ranges)), self.dtype)

        def fill(plane: NDArray[Any], number: int) -> None:
            box = _read_named(files[number], y, x)
            box = box[..., samples[0].start : samples[0].stop] if samples else box[..., 0]
            if box.shape != plane.shape or box.dtype.name != self.dtype:
                name = files[number].name
                raise VolumeError(f"{name} has changed since it was opened: open it again")
            plane[...] = box

        self.file.for_each(lambda each: fill(*each), zip(data, planes, strict=True))
        return data[tuple(0 if isinstance(s, int) else slice(None) for s in selection)]

    def _files(self) -> list[StoredFile]:
        for refresh in (False, True):
            files = _plane_files(self.file, refresh=refresh)
            if len(files) == self.shape[0] and _checksum(files) == self.names:
                return files
        raise VolumeError("it has other files than when it was opened: open it again")


def find_planes(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the volume of a folder of planes, or of one PNG or JPEG; None if the target is none.

    Parameters
    ----------
    target
        Path of a folder on this machine that is no zarr and holds images; or path or URL of a PNG
        or JPEG.
    storage_options
        For opening a URL.

    Raises
    ------
    VolumeError
        If a file of the folder cannot be read, or is no plane like the others.
    """
    place = PNG.parse(target, storage_options) or JPEG.parse(target, storage_options)
    if place is not None:
        if place.inside:
            raise VolumeError(f"{place.name} holds one plane: leave out ::{place.inside}")
        return _image(place.file, [place.file])
    if not isinstance(target, str | os.PathLike) or is_remote(os.fspath(target)):
        return None
    folder = StoredFile(absolute(target))
    try:
        files = _plane_files(folder) if os.path.isdir(folder.name) else []
    except OSError:  # a folder that cannot be listed may be a zarr all the same
        return None
    return _image(folder, files) if files else None


def find_listed_planes(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the volume of a folder of planes in a bucket, or on a web server that lists it.

    Parameters
    ----------
    target
        URL of a folder that is no zarr; None is returned of anything else.
    storage_options
        For opening the URL.

    Raises
    ------
    VolumeError
        If no planes are listed, or one is not like the others.
    """
    if not isinstance(target, str) or not is_remote(target):
        return None
    folder = StoredFile(absolute(target), "", storage_options)
    files = _plane_files(folder, refresh=True)
    if not files:
        raise not_zarr(folder.name, besides=", nor planes that the server lists")
    return _image(folder, files)


def _image(place: StoredFile, files: list[StoredFile]) -> Image:
    (height, width, samples), dtype = _common_type(place, files)
    colours = COLOURS[:samples] if samples > 1 else ()
    kind = _kind(files[0].name)
    is_tiff = kind == TIFF_SUFFIXES
    chunks, level, notes = _of_tiff(files[0]) if is_tiff else ((height, width), LevelScale(""), ())
    source = PlanesSource(
        url=place.name,
        shape=(len(files), height, width, *([samples] if colours else [])),
        dtype=checked_dtype(np.dtype(dtype), place.name),
        chunks=(1, *chunks[:2], *([samples] if colours else [])),
        file=place,
        names=_checksum(files),
    )
    axes = "zyxc" if colours else "zyx"
    lossy = (LOSSY,) if kind == JPEG_SUFFIXES else ()
    return Image(
        place.name, axes, (level,), lambda _: source, channels=colours, notes=(*notes, *lossy)
    )


def _common_type(place: StoredFile, files: list[StoredFile]) -> PlaneType:
    first, *rest = place.for_each(lambda file: read_patiently(lambda: plane_type(file)), files)
    for file, other in zip(files[1:], rest, strict=True):
        if other != first:
            (shape, dtype), (others, others_dtype) = first, other
            raise VolumeError(
                f"{file.name} is a plane of {others_dtype}{_shown(others)}, but the first one, "
                f"{_base(files[0].name)}, is of {dtype}{_shown(shape)}: want all alike"
            )
    return first


def _shown(extents: tuple[int, int, int]) -> str:
    return str(extents[:2] if extents[2] == 1 else extents)


def _of_tiff(file: StoredFile) -> tuple[tuple[int, ...], LevelScale, tuple[str, ...]]:
    """Return chunks, voxel size and notes of the volume that begins with a plane."""
    image = find_tiff(file.name, file.storage_options)
    source = None if image is None else image.open_level(0)
    if image is None or source is None or image.axes not in ("yx", "yxc"):
        # a description of OME leads to other files
        raise VolumeError(
            f"{file.name} belongs to an image of more than one plane: name it by itself"
        )
    size = image.levels[0].voxel_size
    level = LevelScale("") if size is None else LevelScale("", size.lengths, (0.0,) * 3, size)
    return source.chunks, level, image.notes


def _read_named(file: StoredFile, y: range, x: range) -> NDArray[Any]:
    try:
        return read_plane(file, y, x)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they do, and do not know the file
        raise VolumeError(f"{file.name}: {cause(error)}") from error


def _plane_files(place: StoredFile, *, refresh: bool = False) -> list[StoredFile]:
    """Return the files of the planes in order; none if the place is a zarr, or holds no image.

    Raises
    ------
    VolumeError
        If there is anything else beside them.
    """
    path = place.name
    if _kind(path) and (place.is_remote or os.path.isfile(path)):
        return [place]
    entries = _listed(place, refresh=refresh) if place.is_remote else _entries(path)
    names = {_base(e): e for e in entries if not _base(e).startswith(".")}
    images = sorted(filter(_kind, names), key=_natural)
    if not images:
        return []
    kind = _kind(images[0])
    others = (name for name in names if _kind(name) != kind and name not in OF_SYSTEMS)
    if other := min(others, key=_natural, default=None):
        raise VolumeError(
            f"{path} holds planes such as {images[0]}, and {other}, which is none of them: "
            "want one folder with the planes alone"
        )
    return [StoredFile(names[name], "", place.storage_options) for name in images]


def _entries(path: str) -> list[str]:
    # looked up first: an array of zarr may have millions of files to list
    if any(os.path.exists(os.path.join(path, name)) for name in METADATA):
        return []
    return [os.path.join(path, name) for name in os.listdir(path)]


def _listed(place: StoredFile, *, refresh: bool) -> list[str]:
    """Return what is listed in a folder elsewhere, asked for once by a process."""
    key = os.getpid(), place, repr(sorted(place.storage_options.items()))
    if refresh or key not in _folders:
        _folders[key] = list_folder(place.name, place.storage_options)
        if len(_folders) > _MOST_LISTED:
            del _folders[next(iter(_folders))]
    return _folders[key]


def _base(name: str) -> str:
    """Return the last piece of a path or URL, as people read it."""
    base = name.rstrip("/").rpartition("/")[2]
    return unquote(base.partition("?")[0]) if name.startswith("http") else base


def _kind(name: str) -> tuple[str, ...]:
    return next((kind for kind in KINDS if suffix_path(name).endswith(kind)), ())


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts plane 9 before plane 10."""
    pieces = re.findall(r"\d+|\D+", name)
    return [(int(p), "") if p.isdecimal() else (-1, p.lower()) for p in pieces], name


def _checksum(files: list[StoredFile]) -> int:
    return zlib.crc32("\0".join(_base(file.name) for file in files).encode())
