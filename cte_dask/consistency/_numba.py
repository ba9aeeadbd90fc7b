"""The fused pass of `binary` on the CPU: one read of both maps, no temporaries.

Sums are float64 and kept per column of a row segment, then added in order: the order depends on the
core's shape alone, so a tile gives the same bits whatever its strides, its batch or the processor.
"""

# ruff: noqa: PLR0917 - compiled functions take their arguments by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from cte_dask.arrays import Array

SEGMENT = 1024
"""Columns summed side by side; bounds the scratch memory and keeps it in the L1 cache."""

__all__ = ["agreement"]


def agreement(reference: Array, perturbed: Array, bounds: Array, threshold: Any) -> Array:
    """Count the agreement of NumPy maps.

    Parameters
    ----------
    reference, perturbed
        Maps of shape (N, z, y, x) and one dtype, any strides.
    bounds
        Per tile z0, y0, x0, z1, y1, x1 of its core, shape (N, 6), int64.
    threshold
        In the maps' dtype.

    Returns
    -------
    ndarray of float64, shape (N, 6)
        Columns in the order of `cte_dask.consistency.STATISTICS`.
    """
    counts = np.zeros((len(bounds), 6))
    if reference.size == 0:
        return counts
    level = np.float32(threshold) if reference.dtype.itemsize == 2 else threshold
    level = level if isinstance(level, np.floating) else np.float64(level)
    p, p_strides = _flat(_loadable(reference))
    q, q_strides = _flat(_loadable(perturbed))
    _count_tiles(p, p_strides, q, q_strides, bounds, level, counts)
    return counts


def _loadable(maps: Array) -> Array:
    """Return the same values in a dtype the kernel reads; float16 travels as int16 bits."""
    native = maps.astype(maps.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.float16:
        return native.view(np.int16)
    if native.dtype == np.bool_:
        return native.view(np.uint8)
    if native.dtype.kind in "iu" and native.dtype.itemsize == 2:
        return native.astype(np.int32)
    return native.astype(np.float64) if native.dtype.itemsize > 8 else native


def _flat(maps: Array) -> tuple[Array, Array]:
    """One-dimensional contiguous view over the memory of a map, and its strides in elements.

    One compiled kernel then serves every layout, and rows that are contiguous are seen as such.
    """
    size = maps.itemsize
    if any(s < 0 or s % size for s in maps.strides):
        maps = np.ascontiguousarray(maps)
    strides = np.array([s // size for s in maps.strides], dtype=np.int64)
    span = 1 + int(((np.array(maps.shape) - 1) * strides).sum())
    flat = np.lib.stride_tricks.as_strided(maps, (span,), (size,), writeable=False)
    return flat, strides


def _as_float_typed(typing_context: Any, value: Any) -> Any:
    """Give the float a value is compared as: int16 holds float16 bits, other integers numbers."""

    def half(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    def cast(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], signature.args[0], signature.return_type)

    if value == types.int16:
        return types.float32(value), half
    return (value if isinstance(value, types.Float) else types.float64)(value), cast


_as_float: Any = intrinsic(_as_float_typed)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_row(p, i, i_step, q, j, j_step, n, level, sums, out):  # type: ignore[no-untyped-def]
    union = 0
    disagree = 0
    foreground = 0
    nan = 0
    for x in range(n):
        a = _as_float(p[np.uint64(i + x * i_step)])
        b = _as_float(q[np.uint64(j + x * j_step)])
        in_a = a > level
        in_b = b > level
        union += in_a | in_b
        disagree += in_a ^ in_b
        foreground += in_a
        nan += (a != a) | (b != b)  # noqa: PLR0124 - NaN
        root = math.sqrt(np.float64(a) * np.float64(b))
        sums[np.uint64(x)] += root if in_a & in_b else 0.0
    out[0] += union
    out[1] += disagree
    out[3] += foreground
    out[4] += n
    out[5] += nan


@njit(nogil=True, cache=True, error_model="numpy")
def _count_tile(p, ps, i, q, qs, j, shape, level, sums, out):  # type: ignore[no-untyped-def]
    sums[:] = 0.0
    for z in range(shape[0]):
        for y in range(shape[1]):
            row_i = i + z * ps[1] + y * ps[2]
            row_j = j + z * qs[1] + y * qs[2]
            for x in range(0, shape[2], SEGMENT):
                n = min(SEGMENT, shape[2] - x)
                at_i = row_i + x * ps[3]
                at_j = row_j + x * qs[3]
                if ps[3] == 1 and qs[3] == 1:  # a literal step lets the compiler vectorise
                    _count_row(p, at_i, 1, q, at_j, 1, n, level, sums, out)
                else:
                    _count_row(p, at_i, ps[3], q, at_j, qs[3], n, level, sums, out)
    for x in range(SEGMENT):
        out[2] += sums[x]


@njit(nogil=True, cache=True, error_model="numpy")
def _count_tiles(p, ps, q, qs, bounds, level, counts):  # type: ignore[no-untyped-def]
    sums = np.empty(SEGMENT)
    for t in range(bounds.shape[0]):
        z, y, x = bounds[t, 0], bounds[t, 1], bounds[t, 2]
        i = t * ps[0] + z * ps[1] + y * ps[2] + x * ps[3]
        j = t * qs[0] + z * qs[1] + y * qs[2] + x * qs[3]
        shape = bounds[t, 3] - z, bounds[t, 4] - y, bounds[t, 5] - x
        _count_tile(p, ps, i, q, qs, j, shape, level, sums, counts[t])
