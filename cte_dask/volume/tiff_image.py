"""Targets that are series of a TIFF file: OME-TIFF, ImageJ, BigTIFF, stacks and pyramids."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cte_dask.errors import VolumeError, cause
from cte_dask.storage.stored_file import StoredFile
from cte_dask.volume.axes import letters
from cte_dask.volume.file_source import FileKind, FileTarget, library
from cte_dask.volume.image import Image, checked_dtype
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.plane_file import COLOURS, RGB
from cte_dask.volume.tiff_source import TiffSource, open_series, open_tiff, remarks
from cte_dask.volume.voxel_size import VoxelSize, nanometres

__all__ = ["find_tiff"]

TIFF = FileKind("TIFF", (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
UNNAMED = "QI"
"""Axes that tifffile gives to pages in a row of which the file does not say what they are."""
MOST_LISTED = 12
DAMAGE = re.compile(r"(invalid page offset|TiffTag 270 |corrupted file|incompletely written)[^')]*")
"""What tifffile logs of a file that was cut off; it goes on with the pages that are left."""


def find_tiff(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the series that a target names, or the only one; None if it is no TIFF.

    Parameters
    ----------
    target
        ``FILE`` or ``FILE::NUMBER``, a path or URL.
    storage_options
        For opening a URL.

    Raises
    ------
    VolumeError
        If the file cannot be read here, or does not hold the series.
    """
    place = TIFF.parse(target, storage_options)
    if place is None:
        return None
    try:
        with remarks() as messages, open_tiff(place.file) as tiff:
            image = _image(tiff, place)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises whatever it leads to
        raise VolumeError(f"{place.name} cannot be opened as TIFF: {cause(error)}") from error
    if damage := next(filter(None, map(DAMAGE.search, messages)), None):
        raise VolumeError(f"{place.name} is damaged or cut off: {damage[0]}")
    return replace(image, notes=(*image.notes, *dict.fromkeys(map(_note, messages))))


def _note(message: str) -> str:
    # what is lost is an error when it is read, and not zeroed
    text = (message.partition("> ")[2] or message).partition(". Missing data are zeroed")[0]
    return f"tifffile: {text}"


def _image(tiff: Any, place: FileTarget) -> Image:
    number = _number(tiff, place)
    series = tiff.series[number]
    name = place.file.name
    url = f"{name}::{number}" if len(tiff.series) > 1 else name
    axes, channels = _axes(series, url)
    size, notes = _voxel_size(tiff, series, number)

    def open_level(level: int) -> TiffSource:
        return _source(url, place.file, number, level)

    return Image(
        name=url,
        axes=axes,
        levels=_levels(series, size),
        open_level=open_level,
        channels=channels,
        notes=notes,
    )


def _source(url: str, file: StoredFile, number: int, level: int) -> TiffSource:
    try:
        opened = open_series(file, number, level)
    except MemoryError:
        raise
    except Exception as error:
        raise VolumeError(f"{url} cannot be opened as TIFF: {cause(error)}") from error
    dtype = checked_dtype(opened.dtype, url)
    return TiffSource(url, opened.shape, dtype, opened.chunks, file, number, level, opened.fill)


def _number(tiff: Any, place: FileTarget) -> int:
    count = len(tiff.series)
    if not count:
        raise VolumeError(f"{place.name} holds no image")
    if place.inside.isdecimal() and int(place.inside) < count:
        return int(place.inside)
    if not place.inside and count == 1:
        return 0
    listed = [f"{i} {s.name!r} {s.dtype}{s.shape}" for i, s in enumerate(tiff.series)]
    more = f" and {count - MOST_LISTED} more" if count > MOST_LISTED else ""
    asked = f"no series {place.inside!r}" if place.inside else f"{count} series"
    raise VolumeError(
        f"{place.name} holds {asked}",
        remedy=f"name one by its number, as {place.name}::0",
        details=f"there are {', '.join(listed[:MOST_LISTED])}{more}",
    )


def _axes(series: Any, url: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the axes, None where the file does not name them, and the names of channels."""
    names = series.axes
    if "S" in names and "C" in names:
        raise VolumeError(
            f"{url} has channels and samples ({names}): save one sample an image, or as zarr"
        )
    channels: tuple[str, ...] = ()
    if "S" in names and int(series.keyframe.photometric) == RGB:
        channels = COLOURS[: series.shape[names.index("S")]]
    names = names.replace("S", "C")
    if sum(names.count(axis) for axis in UNNAMED) == 1 and "Z" not in names:
        names = "".join("Z" if axis in UNNAMED else axis for axis in names)
    return letters(names), channels


def _levels(series: Any, size: VoxelSize | None) -> tuple[LevelScale, ...]:
    finest = dict(zip(series.axes, series.shape, strict=True))
    scales = []
    for level in series.levels:
        extents = dict(zip(level.axes, level.shape, strict=True))
        factors = [_factor(finest.get(axis, 1), extents.get(axis, 1)) for axis in "ZYX"]
        z, y, x = ((f - 1) / 2 / f for f in factors)  # a coarse voxel covers f fine ones
        voxel = None if size is None else size.scaled(factors)
        scale = tuple(factors) if voxel is None else voxel.lengths
        scales.append(LevelScale("", scale, (z, y, x), voxel))
    return tuple(scales)


def _factor(fine: int, coarse: int) -> float:
    ratio = fine / coarse
    # 1001 voxels halved are 500: the factor is 2
    return float(round(ratio)) if abs(ratio - round(ratio)) < 0.05 * ratio else ratio


def _voxel_size(tiff: Any, series: Any, number: int) -> tuple[VoxelSize | None, tuple[str, ...]]:
    if tiff.is_ome:
        lengths = _ome_lengths(tiff.ome_metadata, number)
    elif tiff.is_imagej:
        lengths = _imagej_lengths(tiff.imagej_metadata or {}, series.keyframe)
    else:
        return None, ()  # the resolution of other files is of print: 72 dots per inch
    if any(lengths):
        return VoxelSize(*lengths), ()
    return None, ("the voxel size is not known",)


def _ome_lengths(text: str, number: int) -> list[float | None]:
    """Return z, y, x in nanometre, see https://docs.openmicroscopy.org/ome-model/."""
    parsed = library("tifffile", extra="tiff", kind="TIFF").xml2dict(text)
    images = parsed.get("OME", {}).get("Image", [])
    images = images if isinstance(images, list) else [images]
    if number >= len(images):
        return [None, None, None]
    pixels = images[number].get("Pixels", {})
    return [
        _length(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "ZYX"
    ]


def _imagej_lengths(metadata: Mapping[str, Any], page: Any) -> list[float | None]:
    """Return z, y, x in nanometre; ImageJ keeps spacing and unit, and dots per unit in tags."""
    # it writes the micro sign as an escape
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    sizes: list[object] = [metadata.get("spacing")]
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        dots, per = tag.value if tag is not None else (0, 1)
        sizes.append(per / dots if dots else None)
    return [_length(size, unit) for size in sizes]


def _length(value: object, unit: object) -> float | None:
    factor = nanometres(unit)
    if factor is None or not isinstance(value, int | float | np.number):
        return None
    length = abs(float(value)) * factor  # the spacing of a stack taken downwards is negative
    # fractions of 32 bits: 0.0092 µm shall be 9.2 nm
    return float(f"{length:.6g}") if math.isfinite(length) and length > 0 else None
