"""Seeds in the depth of regions, and the flooding from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cte_dask.arrays import Array, namespace, to_numpy
from cte_dask.inference.segmenters.array_functions import (
    back,
    distance_transform,
    ndimage_of,
    neighbours,
)
from cte_dask.inference.segmenters.bioimage_cpp import library
from cte_dask.inference.segmenters.maps import spaced, spacing_of
from cte_dask.inference.segmenters.sizes import within_sizes

__all__ = ["absorbed", "depth_of", "flooded", "seeds_of", "smoothed"]


def depth_of(inside: Array, spacing: Sequence[float] | None) -> Array:
    """Return each voxel's Euclidean distance to the nearest voxel outside.

    Parameters
    ----------
    inside
        Bool; what lies beyond the array does not count as outside. Without any voxel outside the
        distance is 1 everywhere.
    spacing
        Extent of a voxel (z, y, x), see `spaced`.

    Returns
    -------
    ndarray of float32
        The distance; 0 outside.
    """
    if bool(inside.all()):
        everywhere: Array = namespace(inside).ones(inside.shape, dtype=np.float32)
        return everywhere
    return distance_transform(inside, spacing_of(spacing, inside.ndim))


def seeds_of(
    depth: Array, *, sigma: float, seed_distance: float, spacing: Sequence[float] | None
) -> tuple[Array, Array]:
    """Find the deepest voxels that lie some distance apart.

    Parameters
    ----------
    depth
        From `depth_of`.
    sigma
        Standard deviation of the Gaussian that smooths the depth first.
    seed_distance
        A seed is the deepest voxel within this distance along every axis.
    spacing
        Extent of a voxel (z, y, x); `sigma` and `seed_distance` count in these units.

    Returns
    -------
    ndarray of int32, ndarray of float32
        The seeds, numbered (a plateau is one), and the smoothed depth.
    """
    smooth, ndimage = smoothed(depth, sigma, spacing), ndimage_of(depth)
    # the window of the filter: `seed_distance` to both sides of a voxel
    reach = [2 * int(r) + 1 for r in spaced(seed_distance, spacing, depth.ndim)]
    peaks = (ndimage.maximum_filter(smooth, size=reach) == smooth) & (depth > 0)
    # voxels of a plateau are all equal to the maximum: joined through corners they make one seed
    seeds, _ = ndimage.label(peaks, structure=neighbours(depth.ndim, depth.ndim))
    return seeds.astype(np.int32, copy=False), smooth


def smoothed(values: Array, sigma: float, spacing: Sequence[float] | None) -> Array:
    """Return values under a Gaussian of this standard deviation, in the units of `spacing`."""
    if sigma == 0:
        return values
    filtered = ndimage_of(values).gaussian_filter
    smooth: Array = filtered(values, spaced(sigma, spacing, values.ndim))
    return smooth


def flooded(height: Array, seeds: Array, mask: Array | None = None) -> Array:
    """Flood a landscape from its seeds; voxels outside the mask or out of reach stay 0.

    It runs on the host, wherever the arrays are.

    Parameters
    ----------
    height
        Low places are flooded first.
    seeds
        int32, 0 where there is no seed.
    mask
        Bool, True where an object may be; None for everywhere.

    Returns
    -------
    ndarray of int32
        Labels with the seeds' ids.
    """
    landscape = np.ascontiguousarray(to_numpy(height), dtype=np.float32)
    inside = None if mask is None else to_numpy(mask)
    labels = library().segmentation.watershed(landscape, to_numpy(seeds), mask=inside)
    return back(height, labels)


def absorbed(labels: Array, height: Array, min_size: int) -> Array:
    """Flood the voxels of small objects again, from their larger neighbours.

    A small object without a neighbour becomes background.

    Returns
    -------
    ndarray of int32
        Numbered from 1.
    """
    large = within_sizes(labels, min_size=min_size)
    if bool(((large > 0) == (labels > 0)).all()):
        return large
    return flooded(height, large, labels > 0)
