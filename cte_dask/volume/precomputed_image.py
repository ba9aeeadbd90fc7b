"""Targets that are Neuroglancer precomputed volumes.

https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cte_dask.errors import VolumeError, cause
from cte_dask.volume.image import Image, checked_dtype
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.tensorstore_source import (
    Place,
    TensorStoreSource,
    opened,
    place_of,
    read_json,
)
from cte_dask.volume.voxel_size import VoxelSize

__all__ = ["find_precomputed"]

FILE = "info"
AXES = "xyzc"


def find_precomputed(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return the precomputed volume that a target names; None if it is none.

    Parameters
    ----------
    target
        ``precomputed://PLACE``, or a folder with a file ``info``.
    storage_options
        ``anonymous``, ``endpoint`` and ``region`` of a bucket.

    Raises
    ------
    VolumeError
        If it cannot be read.
    """
    place = place_of(target, "precomputed", storage_options, sign=FILE)
    if place is None:
        return None
    info = read_json(place, FILE)
    if info is None:
        raise VolumeError(f"{place.target} is no precomputed volume: there is no file {FILE!r}")
    try:
        scales = tuple(_scale(s, info["scales"][0]) for s in info["scales"])
        listed = [dict(s) for s in info["scales"]]
    except (LookupError, TypeError, ValueError) as error:
        raise VolumeError(f"{place.target}/{FILE} describes no volume: {cause(error)}") from error
    return Image(
        name=place.target,
        axes=AXES,
        levels=scales,
        open_level=lambda level: _source(place, level, listed[level]),
        labelled="" if info.get("type") == "segmentation" else None,
    )


def _scale(scale: Mapping[str, Any], first: Mapping[str, Any]) -> LevelScale:
    """Return size and place of a scale's voxels; counted from (0, 0, 0) of the first."""
    x, y, z = (float(n) for n in scale["resolution"])
    origins = scale.get("voxel_offset", [0, 0, 0])
    sizes = zip(origins, scale["resolution"], first["resolution"], strict=True)
    dx, dy, dz = (float(o) + 0.5 - 0.5 * f / r for o, r, f in sizes)
    return LevelScale("", (z, y, x), (dz, dy, dx), VoxelSize(z, y, x))


def _source(place: Place, level: int, scale: Mapping[str, Any]) -> TensorStoreSource:
    driver = {"driver": "neuroglancer_precomputed", "scale_index": level}
    array = opened(place, driver)
    layout = array.chunk_layout
    shape, chunks = tuple(array.shape), tuple(layout.read_chunk.shape)
    sharded = scale.get("sharding") is not None
    return TensorStoreSource(
        url=place.target,
        shape=shape,
        dtype=checked_dtype(np.dtype(array.dtype.numpy_dtype), place.target),
        chunks=chunks,
        place=place,
        driver=json.dumps(driver),
        prefix="" if sharded else str(scale["key"]),
        origin=tuple(int(n) for n in scale.get("voxel_offset", [0, 0, 0])),
    )
