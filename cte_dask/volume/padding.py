"""Reflection at the edges of an array, as indices along one axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["reflected"]


def reflected(start: int, stop: int, extent: int) -> NDArray[np.intp]:
    """Return where each index of ``[start, stop)`` lies after reflection at the edges.

    The semantics of ``numpy.pad(mode="reflect")``: the edge voxel is not repeated, the pattern
    goes on for any distance, and a single voxel is repeated.

    Parameters
    ----------
    start, stop
        The wanted indices; may lie outside the array.
    extent
        Number of voxels along the axis.

    Returns
    -------
    ndarray of int
        ``stop - start`` indices in ``[0, extent)``; neighbours differ by at most one, so they
        cover one contiguous range.

    Examples
    --------
    >>> reflected(-3, 5, 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0]
    """
    wanted = np.arange(start, stop)
    if extent == 1:
        return np.zeros_like(wanted)
    period = 2 * (extent - 1)
    folded = wanted % period
    return np.minimum(folded, period - folded)
