"""What segmenters call, for the library of an array: SciPy's functions, or CuPy's on a GPU.

CuPy has SciPy's filters, labels and the exact distance transform (that of cuCIM) under the same
names, with the same borders, and numbers objects alike, in the order of their first voxels. Nobody
has a watershed for GPUs: flooding, graphs of regions and the mutex watershed run on the host;
arrays go there by `cte_dask.arrays.to_numpy` and come back by `back`. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from cte_dask.arrays import Array, namespace

__all__ = ["back", "distance_transform", "largest", "ndimage_of", "neighbours"]


def ndimage_of(array: Array) -> ModuleType:
    """Return the functions of ``scipy.ndimage`` for an array's library."""
    if namespace(array) is np:
        from scipy import ndimage
    else:
        from cupyx.scipy import ndimage
    module: ModuleType = ndimage
    return module


def neighbours(axes: int, connectivity: int) -> Array:
    """Return which neighbours of a voxel are joined to it, bool (3, …), on the host in any case."""
    from scipy.ndimage import generate_binary_structure

    # a plane has no third kind of neighbour
    structure: Array = generate_binary_structure(axes, min(connectivity, axes))
    return structure


def distance_transform(inside: Array, sampling: Sequence[float]) -> Array:
    """Return each voxel's Euclidean distance to the nearest voxel outside, float32.

    Parameters
    ----------
    inside
        Bool, with a voxel outside.
    sampling
        Extent of a voxel along each axis.
    """
    depth: Array
    if namespace(inside) is np:
        from cte_dask.inference.segmenters.bioimage_cpp import library

        depth = library().distance.distance_transform(inside, sampling=list(sampling))
    else:
        # in float64, as SciPy computes it: distances that are equal stay so
        depth = ndimage_of(inside).distance_transform_edt(inside, sampling=list(sampling))
    return depth.astype(np.float32, copy=False)


def largest(values: Array) -> float:
    """Return the largest of some values, 0 if there is none."""
    return float(values.max()) if values.size else 0.0


def back(like: Array, result: Array) -> Array:
    """Return an array of the host where another one lies."""
    moved: Array = namespace(like).asarray(result)
    return moved
