"""Normal fields on the CPU: the formulas of `philox`, compiled.

Only float32 additions, multiplications, one division and one square root are used, in the order of
the formulas and never fused, so every processor gives the bits that NumPy gives. A few rows are
done at a time, one short loop a step, because the compiler turns such loops into vector code.
"""

# ruff: noqa: PLR0917 - compiled functions take their arguments by position
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cte_dask.arrays import Array

__all__ = ["fill_normals"]

_LANES = 256
"""Counters, about, that are done at a time: four voxels each, of whole rows."""
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_f, _i, _u = np.float32, np.int32, np.uint32


def fill_normals(key: tuple[int, int], start: tuple[int, int, int], field: Array) -> None:
    """Write standard normals into an array, see `philox.normal_field`.

    Parameters
    ----------
    key
        Two words of 32 bits.
    start
        Coordinate (z, y, x) of the field's first voxel.
    field
        Contiguous float32 array (z, y, x), overwritten.
    """
    first, offset = divmod(start[2], 4)
    corner = np.array([start[0], start[1], first], dtype=np.int64)
    _fill(np.array(key, dtype=np.uint32), corner, offset, field)


def _bits_typed(typing_context: Any, value: Any) -> Any:
    """Reinterpret float32 as int32, and int32 as float32."""

    def bitcast(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = ir.FloatType() if signature.return_type == types.float32 else ir.IntType(32)
        return builder.bitcast(args[0], to)

    return (types.int32 if value == types.float32 else types.float32)(value), bitcast


_bits: Any = intrinsic(_bits_typed)


@njit(nogil=True, cache=True, error_model="numpy")
def _philox(c0, c1, c2, c3, k0, k1, n):  # type: ignore[no-untyped-def]
    """Turn the first n counters into random words, in place; see `philox.philox4x32`."""
    for _ in range(10):
        for i in range(n):
            p0, p1 = np.uint64(c0[i]) * _M0, np.uint64(c2[i]) * _M1
            high0, high1 = _u(p0 >> np.uint64(32)), _u(p1 >> np.uint64(32))
            c0[i], c1[i] = _u(high1 ^ c1[i] ^ k0), _u(p1)
            c2[i], c3[i] = _u(high0 ^ c3[i] ^ k1), _u(p0)
        k0, k1 = _u(k0 + _W0), _u(k1 + _W1)


@njit(nogil=True, cache=True, error_model="numpy")
def _radius(word):  # type: ignore[no-untyped-def]
    u = (_f(_i(word >> _u(1))) + _f(0.5)) * _f(2.0**-31)
    shifted = _i(_bits(u) + _i(0x3F800000 - 0x3F3504F3))
    exponent = _f(_i(_i(shifted >> _i(23)) - _i(127)))
    m = _bits(_i((shifted & _i(0x007FFFFF)) + _i(0x3F3504F3)))
    s = (m - _f(1)) / (m + _f(1))
    q = s * s
    p = _f(1 / 9) * q + _f(1 / 7)
    p = p * q + _f(1 / 5)
    p = p * q + _f(1 / 3)
    p = p * q + _f(1)
    log = exponent * _f(0.6931471805599453) + (s + s) * p
    return np.sqrt(_f(-2) * log)


@njit(nogil=True, cache=True, error_model="numpy")
def _cos_sin(word):  # type: ignore[no-untyped-def]
    quarter = _u(_u(word + _u(0x20000000)) >> _u(30))
    t = _f(_i(_u(word - _u(quarter << _u(30))))) * _f(6.283185307179586 * 2.0**-32)
    q = t * t
    s = _f(1 / 362880) * q + _f(-1 / 5040)
    s = s * q + _f(1 / 120)
    s = s * q + _f(-1 / 6)
    s = (s * q + _f(1)) * t
    c = _f(-1 / 3628800) * q + _f(1 / 40320)
    c = c * q + _f(-1 / 720)
    c = c * q + _f(1 / 24)
    c = c * q + _f(-1 / 2)
    c = c * q + _f(1)
    odd = (quarter & _u(1)) != _u(0)
    cos, sin = (s if odd else c), (c if odd else s)
    cos = -cos if (_u(quarter + _u(1)) & _u(2)) != _u(0) else cos
    return cos, -sin if (quarter & _u(2)) != _u(0) else sin


@njit(nogil=True, cache=True, error_model="numpy")
def _pair(first, second, n, even, odd):  # type: ignore[no-untyped-def]
    """Turn n pairs of random words into pairs of normals."""
    for i in range(n):
        radius = _radius(first[i])
        cos, sin = _cos_sin(second[i])
        even[i] = radius * cos
        odd[i] = radius * sin


@njit(nogil=True, cache=True, error_model="numpy")
def _fill(key, corner, offset, field):  # type: ignore[no-untyped-def]
    nz, ny, nx = field.shape
    runs = (offset + nx + 3) // 4
    band = max(1, _LANES // runs)  # rows at a time
    c0, c1 = np.empty(band * runs, np.uint32), np.empty(band * runs, np.uint32)
    c2, c3 = np.empty(band * runs, np.uint32), np.empty(band * runs, np.uint32)
    normals = np.empty((4, band * runs), np.float32)
    values = np.empty(4 * band * runs, np.float32)
    for z in range(nz):
        for first in range(0, ny, band):
            rows = min(band, ny - first)
            n = rows * runs
            for y in range(rows):
                for i in range(runs):
                    place = y * runs + i
                    c0[place], c1[place] = _u(corner[2] + i), _u(corner[1] + first + y)
                    c2[place], c3[place] = _u(corner[0] + z), _u(0)
            _philox(c0, c1, c2, c3, key[0], key[1], n)
            _pair(c0, c1, n, normals[0], normals[1])
            _pair(c2, c3, n, normals[2], normals[3])
            for i in range(n):
                for k in range(4):
                    values[4 * i + k] = normals[k, i]
            for y in range(rows):
                start = 4 * runs * y + offset
                field[z, first + y] = values[start : start + nx]
