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
        Objects of fewer voxels become background.
    max_size
        Objects of more voxels become background; None sets no limit.

    Returns
    -------
    ndarray of int32
        Ids from 1, in the order of the old ids.
    """
    xp = namespace(labels)
    sizes = xp.bincount(labels.ravel())
    keep = (sizes > 0) & (sizes >= min_size)
    if max_size is not None:
        keep &= sizes <= max_size
    # the background is no object; a slice, since there may be no label at all
    keep[:1] = False
    # the running count of the objects that stay is the new id of each
    ids = xp.where(keep, xp.cumsum(keep), 0).astype(xp.int32)
    selected: Array = ids[labels] if ids.size else labels.astype(xp.int32)
    return selected
