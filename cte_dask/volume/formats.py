"""The volume formats: name → "module:function" that finds an image in a target.

Each function takes ``(target, storage_options)`` and returns an
:class:`~cte_dask.volume.image.Image`, or None if the target is not of its kind. They are asked in
order; the last one explains what is wrong with a path that nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cte_dask.errors import VolumeError
from cte_dask.volume.image import Image

__all__ = ["FORMATS", "find_image"]

FORMATS = {
    "array": "cte_dask.volume.array_image:find_array",
    "zarr": "cte_dask.volume.zarr_image:find_zarr",
}


def find_image(target: object, storage_options: Mapping[str, Any]) -> Image:
    """Return the image that a target holds.

    Raises
    ------
    VolumeError
        If no format knows the target, or the one that does cannot open it.
    """
    for place in FORMATS.values():
        module, _, function = place.partition(":")
        image: Image | None = getattr(import_module(module), function)(target, storage_options)
        if image is not None:
            return image
    raise VolumeError(
        f"a target of type {type(target).__name__} is not supported: want a path or URL of a zarr, "
        "or a zarr, numpy, dask or xarray array"
    )
