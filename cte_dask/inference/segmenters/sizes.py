"""Labels by the size of their objects."""

from __future__ import annotations

from cte_dask.arrays import Array, namespace

__all__ = ["within_sizes"]


def within_sizes(labels: Array, *, min_size: int = 0, max_size: int | None = None) -> Array:
    """Drop objects by size and number the others consecutively.

    Parameters
    ----------
    labels
        NumPy or CuPy, any integer dtype, 0 for background, ids not far above the number of objects.
    min_size
        Smaller objects become background; voxels.
    max_size
        Larger objects become background; voxels, None for no limit.

    Returns
    -------
    ndarray of int32
        Ids from 1 in the order of the old ones.
    """
    xp = namespace(labels)
    sizes = xp.bincount(labels.ravel())
    keep = (sizes > 0) & (sizes >= min_size)
    if max_size is not None:
        keep &= sizes <= max_size
    keep[:1] = False
    ids = xp.where(keep, xp.cumsum(keep), 0).astype(xp.int32)
    kept: Array = ids[labels] if ids.size else labels.astype(xp.int32)
    return kept
