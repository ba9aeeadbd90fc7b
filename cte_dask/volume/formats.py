"""The volume formats: what finds an image in a target.

A format is a function of ``(target, storage_options)`` that returns an
:class:`~cte_dask.volume.image.Image`, or None if the target is not of its kind. Those listed are
asked in order; the last one explains what is wrong with a path that nobody knows. A target that
reads ``your_package.module:find::PATH`` is found by a format from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cte_dask.errors import VolumeError
from cte_dask.registry import Registry, checked, is_reference
from cte_dask.volume.image import Image

__all__ = ["FORMATS", "find_image"]

FORMATS = Registry(
    "volume format",
    {
        "array": "cte_dask.volume.array_image:find_array",
        "zarr": "cte_dask.volume.zarr_image:find_zarr",
    },
)
"""Name of each volume format and the function that finds its images."""


def find_image(target: object, storage_options: Mapping[str, Any]) -> Image:
    """Return the image that a target holds.

    Raises
    ------
    VolumeError
        If no format knows the target, or the one that does cannot open it.
    ValueError
        If the format that the target names cannot be imported.
    """
    reference, own = _own_format(target)
    if reference:
        return _found_by(reference, own, storage_options)
    for name in FORMATS:
        image: Image | None = FORMATS.load(name)(target, storage_options)
        if image is not None:
            return image
    raise VolumeError(
        f"a target of type {type(target).__name__} is not supported: want a path or URL of a zarr, "
        "or a zarr, numpy, dask or xarray array"
    )


def _found_by(reference: str, target: str, storage_options: Mapping[str, Any]) -> Image:
    image: object = FORMATS.load(reference)(target, storage_options)
    if image is None:
        raise VolumeError(f"{target} is no image of the volume format {reference!r}")
    return replace(checked(image, Image, f"what {reference} found"), format=reference)


def _own_format(target: object) -> tuple[str, str]:
    """Cut ``module:function::PATH`` in two; the first part is empty of any other target."""
    if isinstance(target, str):
        reference, _, own = target.partition("::")
        if own and is_reference(reference):
            return reference, own
    return "", ""
