"""Normal fields on the GPU: ``device/philox.cuh`` through CuPy. Not yet run on a GPU.

The source is compiled by nvcc and its arithmetic run on the host in the tests; launch and transfer
have had no GPU to run on.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cupy as cp

from cte_dask.arrays import Array

_THREADS = 256

__all__ = ["normals"]


def normals(key: tuple[int, int], start: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Draw the field of `philox.normal_field` on the current device.

    Parameters
    ----------
    key
        Two words of 32 bits.
    start
        Coordinate (z, y, x) of the field's first voxel.
    shape
        Extent in voxels (z, y, x).

    Returns
    -------
    cupy.ndarray of float32
        The same bits as on the CPU.
    """
    field: Array = cp.empty(shape, dtype=cp.float32)
    runs = shape[0] * shape[1] * ((start[2] % 4 + shape[2] + 3) // 4)
    if field.size:
        words = [cp.uint32(word) for word in key]
        corner = [cp.int32(coordinate) for coordinate in start]
        extent = [cp.int64(n) for n in shape]
        grid = (-(-runs // _THREADS),)
        _kernel()(grid, (_THREADS,), (*words, *corner, *extent, field))
    return field


@cache
def _kernel() -> Any:
    source = Path(__file__).with_name("device") / "philox.cuh"
    # Without --fmad=false the compiler fuses operations and the last bits differ from the CPU's.
    return cp.RawKernel(source.read_text(), "cte_normal_field", ("--std=c++17", "--fmad=false"))
