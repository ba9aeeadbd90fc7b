"""Targets that are MRC files (``.mrc``, ``.map``, ``.rec`` …), mapped into memory and read by box.

Source: A. Cheng et al., MRC2014: extensions to the MRC format header for electron cryo-microscopy
and tomography, J. Struct. Biol. 192 (2015), https://doi.org/10.1016/j.jsb.2015.04.002; and
https://bio3d.colorado.edu/imod/doc/mrc_format.txt for what IMOD adds.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, cause
from cte_dask.volume.file_source import FileKind, FileSource, library
from cte_dask.volume.image import Image, Selection, checked_dtype
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.voxel_size import VoxelSize

__all__ = ["find_mrc"]

# the format is marked at byte 208 only, so that it is known by its name
MRC = FileKind("MRC", (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali"), ())
HEADER_BYTES = 1024
ANGSTROM = 0.1
"""Unit of the header's lengths in nanometre."""
IMOD_ORDER: dict[bytes, Literal["little", "big"]] = {b"IMOD": "little", b"DOMI": "big"}


@dataclass(frozen=True)
class MrcSource(FileSource):
    """The voxels of an MRC file.

    Parameters
    ----------
    file
        Absolute path.
    stored
        Element type with the byte order of the file.
    offset
        Byte at which the voxels begin.
    header
        Checksum of the header: it holds extents, type and date.
    """

    file: str
    stored: str
    offset: int
    header: int

    def _read(self, selection: Selection) -> NDArray[Any]:
        if _checksum(self.file) != self.header:
            raise VolumeError("it has changed since it was opened: open it again")
        # mapped for one read: a file that is too short for its voxels is an error here
        voxels = np.memmap(self.file, self.stored, "r", self.offset, self.shape)
        return np.array(voxels[selection])


def find_mrc(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the volume of an MRC file; None if the target is none.

    Parameters
    ----------
    target
        Path of a file, on this machine.
    storage_options
        Not used.

    Raises
    ------
    VolumeError
        If the file cannot be read here.
    """
    place = MRC.parse(target)
    if place is None:
        return None
    if place.inside:
        raise VolumeError(f"{place.file} holds one volume: leave out ::{place.inside}")
    mrcfile = library("mrcfile", extra="mrc", kind="MRC")
    try:
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            with mrcfile.mmap(place.file, mode="r") as opened:
                image = _image(opened, place.file)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # a damaged header leads to whatever it does
        raise VolumeError(f"{place.file} cannot be opened as MRC: {cause(error)}") from error
    # such as bytes behind the voxels, which many programs leave there
    return replace(image, notes=tuple(f"mrcfile: {message.message}" for message in messages))


def _image(opened: Any, file: str) -> Image:
    header, data = opened.header, opened.data
    stored = np.dtype(np.uint8) if _has_unsigned_bytes(header) else data.dtype
    source = MrcSource(
        url=file,
        shape=tuple(int(n) for n in data.shape),
        dtype=checked_dtype(stored, file),
        # in one piece on the disk: a plane of it is a good read
        chunks=(*[1] * (data.ndim - 2), *data.shape[-2:]),
        file=file,
        stored=stored.str,
        offset=HEADER_BYTES + int(header.nsymbt),
        header=_checksum(file),
    )
    level = _scale(opened)
    return Image(file, _axes(header, data.ndim), (level,), lambda _: source)


def _checksum(file: str) -> int:
    with open(file, "rb") as opened:
        return zlib.crc32(opened.read(HEADER_BYTES))


def _axes(header: Any, ndim: int) -> str:
    """Return the axes as stored; the volumes of a stack are its time points."""
    numbers = [int(header.maps), int(header.mapr), int(header.mapc)]
    # zeros of old programs mean the usual order
    order = numbers if sorted(numbers) == [1, 2, 3] else [3, 2, 1]
    axes = "".join(" xyz"[number] for number in order)
    return f"t{axes}" if ndim == 4 else axes[-ndim:]


def _scale(opened: Any) -> LevelScale:
    with np.errstate(all="ignore"):  # programs that do not know the sampling write 0
        size = opened.voxel_size
    # float32 in the file: 92 Å shall be 9.2 nm
    lengths = [float(f"{float(size[axis]) * ANGSTROM:.6g}") for axis in "zyx"]
    known = [v if math.isfinite(v) and v > 0 else None for v in lengths]
    if not any(known):
        return LevelScale("")
    return LevelScale("", tuple(known), (0.0, 0.0, 0.0), VoxelSize(*known))


def _has_unsigned_bytes(header: Any) -> bool:
    """Tell whether mode 0 means 0..255, as IMOD has it unless a flag says that they are signed."""
    extra = bytes(header.extra2)  # begins at byte 112 of the header; the stamp stands at 152
    order = IMOD_ORDER.get(extra[40:44])
    if order is None or int(header.mode) != 0:
        return False
    return not int.from_bytes(extra[44:48], order) & 1
