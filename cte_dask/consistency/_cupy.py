"""The fused pass of `binary` on the GPU: ``device/foreground_counts.cuh`` through CuPy.

Not yet run on a GPU: the tests compile the source with nvcc and run its arithmetic, thread by
thread, on the host; launch and transfer have had no GPU to run on.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cupy as cp
import numpy as np

from cte_dask.arrays import Array

# The same numbers as in foreground_counts.cuh: the grid and the buffer below are sized by them.
_THREADS = 256
_MAX_BLOCKS = 64
_ROWS_PER_BLOCK = 32
_COUNTS_BYTES = 24

__all__ = ["foreground_counts"]


def foreground_counts(reference: Array, perturbed: Array, bounds: Array, threshold: Any) -> Array:
    """Count the foreground voxels of each pair of CuPy maps.

    Parameters
    ----------
    reference, perturbed
        Maps of shape (N, z, y, x) and one dtype, any strides; integer maps are cast to float64.
    bounds
        Per tile z0, y0, x0, z1, y1, x1 of its core, shape (N, 6), int64, on the host.
    threshold
        In the maps' dtype.

    Returns
    -------
    cupy.ndarray of float64, shape (N, 6)
        On the maps' device, columns in the order of `cte_dask.consistency.STATISTICS`.
    """
    with reference.device:  # type: ignore[attr-defined]
        return _launch(_floating(reference), _floating(perturbed), bounds, float(threshold))


def _launch(p: Array, q: Array, bounds: Array, threshold: float) -> Array:
    tiles = len(bounds)
    counts: Array = cp.zeros((tiles, 6))
    if not tiles or not p.size:
        return counts
    boxes = cp.asarray(bounds)
    # One Counts struct for each block that may run; unused ones are never read, so no zeros.
    partial = cp.empty(tiles * _MAX_BLOCKS * _COUNTS_BYTES, dtype=cp.uint8)
    arguments = (p, _strides(p), q, _strides(q), boxes, cp.float64(threshold), partial)
    _kernel(f"cte_count_{p.dtype.name}")(_grid(bounds), (_THREADS,), arguments)
    # A second kernel adds the blocks of a tile in order: atomics would add in any order, and the
    # last bits of sum_ei would change from run to run.
    finish = (partial, boxes, cp.int64(tiles), counts)
    _kernel("cte_finish")((-(-tiles // _THREADS),), (_THREADS,), finish)
    return counts


def _grid(bounds: Array) -> tuple[int, int]:
    """Return (tiles, thread blocks of the largest tile); surplus blocks of smaller tiles return."""
    rows = int(((bounds[:, 3] - bounds[:, 0]) * (bounds[:, 4] - bounds[:, 1])).max())
    return len(bounds), max(1, min(_MAX_BLOCKS, -(-rows // _ROWS_PER_BLOCK)))


def _floating(maps: Array) -> Array:
    return maps.astype(cp.float64) if maps.dtype.kind in "biu" else maps


def _strides(maps: Array) -> Array:
    # CuPy gives strides in bytes, the kernels step through typed pointers.
    elements = np.array([s // maps.itemsize for s in maps.strides], dtype=np.int64)
    strides: Array = cp.asarray(elements)
    return strides


@cache
def _kernel(name: str) -> Any:
    source = Path(__file__).with_name("device") / "foreground_counts.cuh"
    return cp.RawKernel(source.read_text(), name, ("--std=c++17",))
