"""Targets given from Python as an array: NumPy, dask, xarray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cte_dask.volume.array_source import array_source
from cte_dask.volume.axes import letters
from cte_dask.volume.image import Image
from cte_dask.volume.ngff import LevelScale
from cte_dask.volume.source import checked_dtype

__all__ = ["find_array"]


def find_array(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return an array as an image of one level, None if the target is no array.

    Names of an xarray's dimensions become axes where they are names of axes.

    Raises
    ------
    VolumeError
        If its elements are not real numbers.
    """
    has_facts = all(hasattr(target, name) for name in ("shape", "dtype", "ndim", "__getitem__"))
    if not has_facts or type(target).__module__.partition(".")[0] == "zarr":
        return None
    array: Any = target
    name = f"the {type(target).__name__}"
    source = array_source(array, checked_dtype(np.dtype(array.dtype), name))
    return Image(
        name=name,
        axes=letters(getattr(target, "dims", None)),
        levels=(LevelScale(""),),
        open_level=lambda _: source,
    )
