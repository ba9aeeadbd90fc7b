"""Targets that are MRC files (``.mrc``, ``.map``, ``.rec`` …), read by box.

Source: A. Cheng et al., MRC2014: extensions to the MRC format header for electron cryo-microscopy
and tomography, J. Struct. Biol. 192 (2015), https://doi.org/10.1016/j.jsb.2015.04.002; and
https://bio3d.colorado.edu/imod/doc/mrc_format.txt for what IMOD adds.
"""

from __future__ import annotations

import math
import os
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.stored_file import StoredFile
from cte_dask.volume.file_source import FileKind, StoredFileSource, library
from cte_dask.volume.image import Image, Selection, checked_dtype
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.rows import box_of_rows, rows
from cte_dask.volume.voxel_size import VoxelSize

__all__ = ["find_mrc"]

# the format is marked at byte 208 only, so that it is known by its name
MRC = FileKind("MRC", (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali"), ())
HEADER_BYTES = 1024
ANGSTROM = 0.1
"""Unit of the header's lengths in nanometre."""
IMOD_ORDER: dict[bytes, Literal["little", "big"]] = {b"IMOD": "little", b"DOMI": "big"}


@dataclass(frozen=True)
class MrcSource(StoredFileSource):
    """The voxels of an MRC file.

    Parameters
    ----------
    stored
        Element type with the byte order of the file.
    offset
        Byte at which the voxels begin.
    header
        Checksum of the header: it holds extents, type and date.
    """

    stored: str
    offset: int
    header: int

    def _read(self, selection: Selection) -> NDArray[Any]:
        if _checksum(self.file) != self.header:
            raise VolumeError("it has changed since it was opened: open it again")
        if self.file.is_remote:
            itemsize = np.dtype(self.stored).itemsize
            pieces = self.file.read(rows(selection, self.shape, itemsize, self.offset))
            return box_of_rows(pieces, selection, self.shape, self.stored)
        # mapped for one read: a file that is too short for its voxels is an error here
        voxels = np.memmap(self.file.name, self.stored, "r", self.offset, self.shape)
        return np.array(voxels[selection])


def find_mrc(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the volume of an MRC file; None if the target is none.

    Parameters
    ----------
    target
        Path or URL of a file.
    storage_options
        For opening a URL.

    Raises
    ------
    VolumeError
        If the file cannot be read here.
    """
    place = MRC.parse(target, storage_options)
    if place is None:
        return None
    if place.inside:
        raise VolumeError(f"{place.name} holds one volume: leave out ::{place.inside}")
    interpreter = library("mrcfile", extra="mrc", kind="MRC").mrcinterpreter.MrcInterpreter
    try:
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            # closed first: an interpreter that is closed before its stream writes to it
            with place.file.open() as stream:
                opened = interpreter(stream, header_only=True)
                image = _image(opened, stream.seek(0, os.SEEK_END), place.file)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # a damaged header leads to whatever it does
        raise VolumeError(f"{place.name} cannot be opened as MRC: {cause(error)}") from error
    remarks = (f"mrcfile: {message.message}" for message in messages)
    return replace(image, notes=(*remarks, *image.notes))


def _image(opened: Any, size: int, file: StoredFile) -> Image:
    utils = library("mrcfile", extra="mrc", kind="MRC").utils
    header = opened.header
    shape = tuple(int(n) for n in utils.data_shape_from_header(header))
    stored = np.dtype(utils.data_dtype_from_header(header))
    stored = np.dtype(np.uint8) if _has_unsigned_bytes(header) else stored
    source = MrcSource(
        url=file.name,
        shape=shape,
        dtype=checked_dtype(stored, file.name),
        # in one piece on the disk: a plane of it is a good read
        chunks=(*[1] * (len(shape) - 2), *shape[-2:]),
        file=file,
        stored=stored.str,
        offset=HEADER_BYTES + int(header.nsymbt),
        header=_checksum(file),
    )
    more = size - source.offset - math.prod(shape) * stored.itemsize
    if more < 0:
        raise VolumeError(f"{file.name} is cut off: it ends {-more} bytes before its voxels do")
    # many programs leave some there
    notes = (f"{more} bytes follow the voxels and are not read",) if more else ()
    axes = _axes(header, len(shape))
    return Image(file.name, axes, (_scale(opened),), lambda _: source, notes=notes)


def _checksum(file: StoredFile) -> int:
    with file.open() as opened:
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
