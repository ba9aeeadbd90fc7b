"""The fused pass of `binary` on the CPU: one read of both maps, no temporaries.

A row is read eight voxels at a time. Column x of every row is summed in lane x mod 8, float64, and
the lanes are added in order at the end: the order depends on the core's shape alone, so a tile
gives the same bits whatever its strides, its batch or the processor.
"""

# ruff: noqa: PLR0917 - compiled functions take their arguments by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from cte_dask.arrays import Array

LANES = 8
"""Voxels read, and columns summed, side by side."""

MOST_COUNTED = LANES * 2**31
"""Most voxels of a row: each lane counts in int32, which more would overflow."""

__all__ = ["foreground_counts"]


def foreground_counts(reference: Array, perturbed: Array, bounds: Array, threshold: Any) -> Array:
    """Count the foreground voxels of each pair of NumPy maps.

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
    # float16 values are compared after widening to float32, which is exact, so their threshold may
    # be widened as well.
    level = np.float32(threshold) if reference.dtype == np.float16 else threshold
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
    # int16 stands for float16 bits (above), so true 16-bit integers must arrive as another type.
    if native.dtype.kind in "iu" and native.dtype.itemsize == 2:
        return native.astype(np.int32)
    # Numba has no long double (float128).
    return native.astype(np.float64) if native.dtype.itemsize > 8 else native


def _flat(maps: Array) -> tuple[Array, Array]:
    """Return a flat view of a map's memory and the map's strides in elements.

    One compiled kernel then serves every layout, and contiguous rows are recognised by stride 1.
    """
    size = maps.itemsize
    # The flat view starts at the first element: a negative stride would point before it.
    if any(s < 0 or s % size for s in maps.strides):
        maps = np.ascontiguousarray(maps)
    strides = np.array([s // size for s in maps.strides], dtype=np.int64)
    if maps.flags.c_contiguous:
        return maps.reshape(-1), strides
    # From the first element to the last one that the strides reach.
    span = 1 + int(((np.array(maps.shape) - 1) * strides).sum())
    flat = np.lib.stride_tricks.as_strided(maps, (span,), (size,), writeable=False)
    return flat, strides


def _float_of(value: Any) -> Any:
    """Return the float type in which values of a type are compared.

    int16 carries the bits of float16; other integers are numbers.
    """
    if value == types.int16:
        return types.float32
    return value if isinstance(value, types.Float) else types.float64


def _widened(builder: Any, value: Any, dtype: Any, lanes: int) -> Any:
    """Widen a value, or a vector of values, from its stored type to the one it is compared in."""

    def shaped(kind: Any) -> Any:
        return ir.VectorType(kind, lanes) if lanes > 1 else kind

    if dtype == types.int16:
        return builder.fpext(builder.bitcast(value, shaped(ir.HalfType())), shaped(ir.FloatType()))
    if isinstance(dtype, types.Float):
        return value
    convert = builder.sitofp if dtype.signed else builder.uitofp
    return convert(value, shaped(ir.DoubleType()))


def _as_float_typed(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _widened(builder, args[0], value, 1)

    return _float_of(value)(value), generate


_as_float: Any = intrinsic(_as_float_typed)


def _count_lanes_typed(
    typing_context: Any, p: Any, i: Any, q: Any, j: Any, n: Any, level: Any, sums: Any, out: Any
) -> Any:
    """Count n voxels, a multiple of `LANES`, of two contiguous rows.

    The vectors are written out in LLVM: a compiler may not reorder a sum of floats, so it would not
    vectorise the plain loop.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows = [_address(context, builder, signature.args[k], args[k], args[k + 1]) for k in (0, 2)]
        lanes = _address(context, builder, signature.args[6], args[6], None)
        counts = _address(context, builder, signature.args[7], args[7], None)
        _lanes_loop(context, builder, rows, p.dtype, args[4], args[5], lanes, counts)
        return context.get_dummy_value()

    return types.void(p, i, q, j, n, level, sums, out), generate


def _address(context: Any, builder: Any, kind: Any, value: Any, index: Any) -> Any:
    """Return the address of an element of a one-dimensional array."""
    data = context.make_array(kind)(context, builder, value).data
    return data if index is None else builder.gep(data, [index])


def _lanes_loop(
    context: Any, builder: Any, rows: Any, dtype: Any, n: Any, level: Any, lanes: Any, counts: Any
) -> None:
    number = ir.FloatType() if _float_of(dtype) == types.float32 else ir.DoubleType()
    floats, doubles = ir.VectorType(number, LANES), ir.VectorType(ir.DoubleType(), LANES)
    ints = ir.VectorType(ir.IntType(32), LANES)
    bits = ir.VectorType(ir.IntType(32 if number == ir.FloatType() else 64), LANES)
    raw = ir.VectorType(context.get_data_type(dtype), LANES).as_pointer()
    width = context.get_abi_sizeof(context.get_data_type(dtype))
    levels = _splat(builder, level, floats)
    sums = builder.bitcast(lanes, doubles.as_pointer())
    name = f"llvm.sqrt.v{LANES}f{32 if number == ir.FloatType() else 64}"
    sqrt = _declared(builder, name, ir.FunctionType(floats, [floats]))
    starts = [builder.load(sums, align=8), *(ir.Constant(ints, None),) * 4]
    state = [cgutils.alloca_once_value(builder, v) for v in starts]  # type: ignore[no-untyped-call]

    # A true lane of a mask, sign-extended, is -1: subtracting it adds one.
    def counted(slot: Any, mask: Any) -> None:
        builder.store(builder.sub(builder.load(slot), builder.sext(mask, ints)), slot)

    step = ir.Constant(n.type, LANES)
    with cgutils.for_range_slice(builder, ir.Constant(n.type, 0), n, step, inc=True) as (x, _):
        a, b = (
            _widened(
                builder,
                builder.load(builder.bitcast(builder.gep(row, [x]), raw), align=width),
                dtype,
                LANES,
            )
            for row in rows
        )
        in_a, in_b = (builder.fcmp_ordered(">", v, levels) for v in (a, b))
        both = builder.and_(in_a, in_b)
        # Voxels outside A and B are zeroed in their bits (sqrt(0) adds nothing): LLVM would move a
        # select of numbers behind the conversion to float64, where vectors are twice as long.
        product_bits = builder.bitcast(builder.fmul(a, b), bits)
        masked_bits = builder.and_(product_bits, builder.sext(both, bits))
        root = builder.call(sqrt, [builder.bitcast(masked_bits, floats)])
        root = builder.fpext(root, doubles) if floats != doubles else root
        builder.store(builder.fadd(builder.load(state[0]), root), state[0])
        for slot, mask in zip(state[1:], (in_a, in_b, both), strict=False):
            counted(slot, mask)
        counted(state[4], builder.fcmp_unordered("uno", a, b))
    builder.store(builder.load(state[0]), sums, align=8)
    # Lanes are widened before they are added: eight int32 counts may not fit one int32.
    wide = ir.VectorType(ir.IntType(64), LANES)
    kind = ir.FunctionType(ir.IntType(64), [wide])
    reduce = _declared(builder, f"llvm.vector.reduce.add.v{LANES}i64", kind)
    for place, slot in enumerate(state[1:]):
        total = builder.call(reduce, [builder.sext(builder.load(slot), wide)])
        address = builder.gep(counts, [ir.Constant(ir.IntType(64), place)])
        builder.store(builder.add(builder.load(address), total), address)


def _declared(builder: Any, name: str, kind: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    first = builder.insert_element(
        ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


_count_lanes: Any = intrinsic(_count_lanes_typed)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_voxels(p, i, i_step, q, j, j_step, first, n, level, sums, out):  # type: ignore[no-untyped-def]
    for x in range(first, n):
        # Unsigned indices spare Numba's check for negative ones.
        a = _as_float(p[np.uint64(i + x * i_step)])
        b = _as_float(q[np.uint64(j + x * j_step)])
        in_a = a > level
        in_b = b > level
        out[0] += in_a
        out[1] += in_b
        out[2] += in_a & in_b
        out[3] += (a != a) | (b != b)  # noqa: PLR0124 - NaN
        if in_a & in_b:
            # The lane that the vector loop would have used: the order of the sum stays the same.
            sums[x % LANES] += math.sqrt(a * b)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_tile(p, ps, i, q, qs, j, shape, level, sums, out):  # type: ignore[no-untyped-def]
    nz, ny, nx = shape
    # A plane without gaps is one long row, if each of its rows begins in the first lane: lanes, and
    # so the order of the sum, are then those of separate rows.
    if nx % LANES == 0 and ps[2] == nx and qs[2] == nx and ny * nx < MOST_COUNTED:
        ny, nx = 1, ny * nx
    # Vectors are loaded from contiguous rows only; other strides go voxel by voxel.
    vector_end = nx - nx % LANES if ps[3] == 1 and qs[3] == 1 else 0
    for z in range(nz):
        for y in range(ny):
            row_i = i + z * ps[1] + y * ps[2]
            row_j = j + z * qs[1] + y * qs[2]
            if vector_end:
                _count_lanes(p, row_i, q, row_j, vector_end, level, sums, out)
            _count_voxels(p, row_i, ps[3], q, row_j, qs[3], vector_end, nx, level, sums, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_tiles(p, ps, q, qs, bounds, level, counts):  # type: ignore[no-untyped-def]
    sums = np.empty(LANES)
    totals = np.empty(4, np.int64)  # foreground of p, of q, of both, NaN
    for t in range(bounds.shape[0]):
        z, y, x = bounds[t, 0], bounds[t, 1], bounds[t, 2]
        i = t * ps[0] + z * ps[1] + y * ps[2] + x * ps[3]
        j = t * qs[0] + z * qs[1] + y * qs[2] + x * qs[3]
        shape = bounds[t, 3] - z, bounds[t, 4] - y, bounds[t, 5] - x
        sums[:] = 0.0
        totals[:] = 0
        _count_tile(p, ps, i, q, qs, j, shape, level, sums, totals)
        # |A or B| = |A| + |B| - |A and B|; |A xor B| leaves the intersection out on both sides.
        counts[t, 0] = totals[0] + totals[1] - totals[2]
        counts[t, 1] = totals[0] + totals[1] - 2 * totals[2]
        for lane in range(LANES):
            counts[t, 2] += sums[lane]
        counts[t, 3] = totals[0]
        counts[t, 4] = shape[0] * shape[1] * shape[2]
        counts[t, 5] = totals[3]
