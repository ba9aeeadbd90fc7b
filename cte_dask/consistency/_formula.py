"""The pass of `binary` in plain array functions: the definition that the kernels are held to."""

from __future__ import annotations

from typing import Any

from cte_dask.arrays import Array, namespace
from cte_dask.consistency import STATISTICS

__all__ = ["agreement_by_formula"]


def agreement_by_formula(
    reference: Array, perturbed: Array, bounds: Array, threshold: Any
) -> Array:
    """Count agreement, one tile after the other.

    Parameters
    ----------
    reference, perturbed
        Maps of shape (N, z, y, x).
    bounds
        Per tile z0, y0, x0, z1, y1, x1 of its core, shape (N, 6).
    threshold
        In the maps' dtype.

    Returns
    -------
    ndarray of float64, shape (N, len(STATISTICS))
        See `binary_agreement_batch`.
    """
    xp = namespace(reference, perturbed)
    counts: Array = xp.zeros((len(bounds), len(STATISTICS)))
    # roots are taken in the precision of the maps, float32 at least, and summed in float64
    narrow = reference.dtype.kind == "f" and reference.dtype.itemsize <= 4
    wide = xp.float32 if narrow else xp.float64
    for i, (z0, y0, x0, z1, y1, x1) in enumerate(bounds.tolist()):
        core = i, slice(z0, z1), slice(y0, y1), slice(x0, x1)
        p, q = reference[core], perturbed[core]
        a, b = p > threshold, q > threshold
        both = xp.where(a & b, p, 0).astype(wide) * xp.where(a & b, q, 0).astype(wide)
        counts[i, 0] = (a | b).sum()
        counts[i, 1] = (a ^ b).sum()
        counts[i, 2] = xp.sqrt(both).sum(dtype=xp.float64)
        counts[i, 3] = a.sum()
        counts[i, 4] = p.size
        counts[i, 5] = ((p != p) | (q != q)).sum()  # noqa: PLR0124 - NaN in any dtype
    return counts
