"""Targets that are N5 datasets, or N5 groups of a dataset a resolution (``s0``, ``s1``, …).

N5 stores the axes fastest first: without names they are x, y, z.
https://github.com/saalfeldlab/n5; voxel sizes as n5-viewer, Paintera and COSEM write them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cte_dask.errors import VolumeError
from cte_dask.volume.axes import letters
from cte_dask.volume.image import Image, checked_dtype
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.tensorstore_source import (
    Place,
    TensorStoreSource,
    opened,
    place_of,
    read_json,
)
from cte_dask.volume.voxel_size import VoxelSize, nanometres

__all__ = ["find_n5"]

FILE = "attributes.json"
DRIVER = {"driver": "n5"}
Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class _Space:
    """Voxel size along x, y, z in nanometre, and the names of all axes; None if not known."""

    size: tuple[float, ...] | None
    axes: str | None


def find_n5(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the N5 dataset or pyramid that a target names; None if it is no N5.

    Parameters
    ----------
    target
        ``n5://PLACE``, or a folder with ``attributes.json``.
    storage_options
        ``anonymous``, ``endpoint`` and ``region`` of a bucket.

    Raises
    ------
    VolumeError
        If it cannot be read or does not name a dataset.
    """
    place = place_of(target, "n5", storage_options, sign=FILE)
    if place is None:
        return None
    group = read_json(place, FILE) or {}
    if "dimensions" in group:
        return _image(place, {"": group}, {})
    levels = _levels(place)
    if not levels:
        raise _refusal(place)
    return _image(place, levels, group)


def _levels(place: Place) -> dict[str, Attributes]:
    """Return the datasets s0, s1, … of a pyramid, and their attributes."""
    levels: dict[str, Attributes] = {}
    while attributes := read_json(place.below(f"s{len(levels)}"), FILE):
        levels[f"s{len(levels)}"] = attributes
    return levels


def _refusal(place: Place) -> VolumeError:
    """Return what is wrong, and what can be named instead if the group lies on this machine."""
    names = []
    for folder, below, files in os.walk(place.url):
        below[:] = sorted(name for name in below if not name.isdigit())  # those hold the blocks
        if FILE in files and folder != place.url:
            names.append(os.path.relpath(folder, place.url))
    problem = f"{place.target} is no N5 dataset"
    if not names:
        problem += " and holds none that can be listed"
        return VolumeError(problem, "name one, as n5://…/volume/raw/s0")
    remedy = f"name one, as {place.target}/{names[0]}"
    return VolumeError(problem, remedy, f"there are {', '.join(names)}")


def _image(place: Place, levels: Mapping[str, Attributes], group: Attributes) -> Image:
    sources = [_source(place, path) for path in levels]
    spaces = [
        _space(a, len(s.shape), group, _factors(a, index, group))
        for index, (a, s) in enumerate(zip(levels.values(), sources, strict=True))
    ]
    first = spaces[0]
    scales = tuple(_scale(space, first) for space in spaces)
    axes = first.axes or {2: "xy", 3: "xyz"}.get(len(sources[0].shape))
    notes = () if first.axes else ("the axes are taken in N5's order: x, y, z",)
    return Image(place.target, axes, scales, sources.__getitem__, notes=notes)


def _source(place: Place, path: str) -> TensorStoreSource:
    array = opened(place.below(path), DRIVER)
    return TensorStoreSource(
        url=place.target,
        shape=tuple(array.shape),
        dtype=checked_dtype(np.dtype(array.dtype.numpy_dtype), place.target),
        chunks=tuple(array.chunk_layout.read_chunk.shape),
        place=place,
        driver=json.dumps(DRIVER),
        path=path,
    )


def _factors(attributes: Attributes, level: int, group: Attributes) -> list[float] | None:
    """Return how much larger the voxels of a level are than those that the group's size tells."""
    listed = group.get("scales") or group.get("downsamplingFactors")
    factors = attributes.get("downsamplingFactors")
    if factors is None and isinstance(listed, list) and level < len(listed):
        factors = listed[level]
    return _numbers(factors) if factors is not None else ([1.0] * 3 if level == 0 else None)


def _space(
    attributes: Attributes, ndim: int, group: Attributes, factors: list[float] | None
) -> _Space:
    """Return what the attributes of a dataset say, or those of its group with its factors."""
    own = _lengths(attributes)
    if own is None and factors and (whole := _lengths(group)):
        own = tuple(n * f for n, f in zip(whole, factors, strict=False))
    names = attributes.get("axes", group.get("axes"))
    transform = attributes.get("transform")
    if isinstance(transform, Mapping) and isinstance(transform.get("axes"), list):
        # COSEM names its axes slowest first
        names = transform["axes"][::-1]
    axes = letters(names) if isinstance(names, list) and len(names) == ndim else None
    return _Space(own, axes)


def _lengths(attributes: Attributes) -> tuple[float, ...] | None:
    """Return the extent of a voxel along x, y, z in nanometre; None if it is not told."""
    transform = attributes.get("transform")
    if isinstance(transform, Mapping) and isinstance(transform.get("scale"), list):
        return _nanometres(transform["scale"][::-1], transform.get("units", "nm"))
    size = attributes.get("pixelResolution", attributes.get("resolution"))
    if isinstance(size, Mapping):
        return _nanometres(size.get("dimensions"), size.get("unit", ""))
    return _nanometres(size, attributes.get("units", attributes.get("unit", "nm")))


def _nanometres(size: object, units: object) -> tuple[float, ...] | None:
    lengths = _numbers(size)
    names = units if isinstance(units, list) else [units] * len(lengths)
    known = [nanometres(name) for name in names]
    if len(lengths) < 2 or len(known) < len(lengths) or None in known or min(lengths) <= 0:
        return None
    return tuple(v * (unit or 1.0) for v, unit in zip(lengths[:3], known[:3], strict=False))


def _numbers(values: object) -> list[float]:
    try:
        return [float(v) for v in values]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return []


def _scale(space: _Space, first: _Space) -> LevelScale:
    if space.size is None or first.size is None:
        return LevelScale("")
    x, y, z = (*space.size, 1.0)[:3]
    # the corner of the first voxel is that of all levels, its centre is not
    steps = (0.5 - 0.5 * f / s for s, f in zip(space.size, first.size, strict=True))
    dx, dy, dz = (*steps, 0.0)[:3]
    size = VoxelSize(z if len(space.size) > 2 else None, y, x)
    return LevelScale("", (z, y, x), (dz, dy, dx), size)
