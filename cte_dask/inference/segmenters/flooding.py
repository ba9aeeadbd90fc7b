"""Seeds in the depth of regions, and the flooding from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from cte_dask.arrays import Array
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
    if inside.all():
        return np.ones(inside.shape, dtype=np.float32)
    sampling = spacing_of(spacing, inside.ndim)
    depth: Array = library().distance.distance_transform(inside, sampling=sampling)
    return depth.astype(np.float32, copy=False)


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
    smooth = smoothed(depth, sigma, spacing)
    # the window of the filter: `seed_distance` to both sides of a voxel
    reach = [2 * int(r) + 1 for r in spaced(seed_distance, spacing, depth.ndim)]
    peaks = (ndimage.maximum_filter(smooth, size=reach) == smooth) & (depth > 0)
    # voxels of a plateau are all equal to the maximum: joined through corners they make one seed
    all_neighbours = ndimage.generate_binary_structure(depth.ndim, depth.ndim)
    seeds, _ = ndimage.label(peaks, structure=all_neighbours)
    return seeds.astype(np.int32, copy=False), smooth


def smoothed(values: Array, sigma: float, spacing: Sequence[float] | None) -> Array:
    """Return values under a Gaussian of this standard deviation, in the units of `spacing`."""
    if sigma == 0:
        return values
    smooth: Array = ndimage.gaussian_filter(values, spaced(sigma, spacing, values.ndim))
    return smooth


def flooded(height: Array, seeds: Array, mask: Array | None = None) -> Array:
    """Flood a landscape from its seeds; voxels outside the mask or out of reach stay 0.

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
    landscape = np.ascontiguousarray(height, dtype=np.float32)
    labels: Array = library().segmentation.watershed(landscape, seeds, mask=mask)
    return labels


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
