"""The volume formats, each a function that finds an image in a target.

A format takes ``(target, storage_options)`` and returns an :class:`~cte_dask.volume.image.Image`,
or None if the target is not of its kind. The listed formats are tried in order; the last explains
what is wrong with a path that no format knows. A target ``your_package.module:find::PATH`` names a
format from outside.
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
        "hdf5": "cte_dask.volume.hdf5_image:find_hdf5",
        "n5": "cte_dask.volume.n5_image:find_n5",
        "precomputed": "cte_dask.volume.precomputed_image:find_precomputed",
        "mrc": "cte_dask.volume.mrc_image:find_mrc",
        "tiff": "cte_dask.volume.tiff_image:find_tiff",
        "planes": "cte_dask.volume.planes_image:find_planes",
        "zip": "cte_dask.volume.zip_image:find_zip",
        "zarr": "cte_dask.volume.zarr_image:find_zarr",
        "listed planes": "cte_dask.volume.planes_image:find_listed_planes",
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
    reference, path = _named_format(target)
    if reference:
        return _image_of(reference, path, storage_options)
    for name in FORMATS:
        image: Image | None = FORMATS.load(name)(target, storage_options)
        if image is not None:
            return image
    raise VolumeError(
        f"a target of type {type(target).__name__} is not supported: want a path or URL of a zarr, "
        "an N5 or precomputed volume, an HDF5, TIFF or MRC file, or a zarr, numpy, dask or xarray "
        "array"
    )


def _image_of(reference: str, target: str, storage_options: Mapping[str, Any]) -> Image:
    image: object = FORMATS.load(reference)(target, storage_options)
    if image is None:
        raise VolumeError(f"{target} is no image of the volume format {reference!r}")
    return replace(checked(image, Image, f"what {reference} found"), format=reference)


def _named_format(target: object) -> tuple[str, str]:
    """Split ``module:function::PATH`` in two; both are empty for any other target."""
    if isinstance(target, str):
        # fsspec chains URLs with :: too, but no protocol holds the colon of a reference
        reference, _, path = target.partition("::")
        if path and is_reference(reference):
            return reference, path
    return "", ""
