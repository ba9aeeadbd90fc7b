"""NHD and EI: consistency of two foreground probability maps over their foreground union.

With the foreground masks A = [p > t] of the reference and B = [p' > t] of the perturbed prediction
and their union U (Talks & Kreshuk, arXiv 2503.00450, eqs. 4 and 5)::

    NHD = 1 - |A xor B| / |U|               hard
    EI  = sum over A and B of sqrt(p p') / |U|     soft

One pass reads each map once and counts what both need. NumPy arrays go to a Numba kernel, CuPy
arrays to a CUDA kernel; `counts_by_formula` counts the same in plain array functions. It is the
reference of both kernels and takes their place where Numba is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array, namespace, native_threshold, numba_pays
from cte_dask.consistency import STATISTICS, Metric

Bounds = npt.NDArray[np.int64]
Core = tuple[slice, ...]

FORMULA_SECONDS = 1e-8
"""What the formula takes a voxel in NumPy."""
LANES = 8
"""Sums of roots are made of columns x mod 8 and then added, as the kernel reads voxels."""

__all__ = [
    "EI",
    "NHD",
    "BinaryAgreement",
    "binary_agreement",
    "binary_agreement_batch",
    "counts_by_formula",
    "ei",
    "nhd",
]


class BinaryAgreement(NamedTuple):
    """Voxel counts of one tile from which NHD and EI follow.

    It counts where the reference and the perturbed prediction call the same voxels foreground.
    What models say of each other is another thing: `cte_dask.consistency.vote_patterns`.

    Parameters
    ----------
    n_union
        Voxels in the foreground of either map, ``|U|``.
    n_disagree
        Voxels in the foreground of exactly one map.
    sum_ei
        Sum of sqrt(p p') over the voxels in both foregrounds.
    n_reference
        Voxels in the foreground of the reference.
    n_voxels
        Voxels compared.
    n_nan
        Voxels at which either map is NaN. They are in no foreground; a tile that has any must be
        reported as failed, not scored.
    """

    n_union: int
    n_disagree: int
    sum_ei: float
    n_reference: int = 0
    n_voxels: int = 0
    n_nan: int = 0

    @property
    def nhd(self) -> float:
        """1 - normalised Hamming distance (eq. 5), NaN where the union is empty."""
        return float(nhd(self.n_union, self.n_disagree))

    @property
    def ei(self) -> float:
        """Effective invariance (eq. 4), NaN where the union is empty."""
        return float(ei(self.n_union, self.sum_ei))


def nhd(n_union: npt.ArrayLike, n_disagree: npt.ArrayLike) -> Array:
    """Return ``1 - |A xor B| / |A or B|`` (arXiv 2503.00450, eq. 5), elementwise.

    Parameters
    ----------
    n_union, n_disagree
        Counts of voxels, scalars or arrays of one shape.

    Returns
    -------
    ndarray of float64
        In [0, 1]; NaN where the union is empty.
    """
    return 1.0 - _per_union(n_disagree, n_union)


def ei(n_union: npt.ArrayLike, sum_ei: npt.ArrayLike) -> Array:
    """Return the mean of sqrt(p p') over the union, 0 outside A and B (eq. 4), elementwise.

    Parameters
    ----------
    n_union
        Counts of voxels, scalar or array.
    sum_ei
        Sums of sqrt(p p'), of the same shape.

    Returns
    -------
    ndarray of float64
        In [0, 1] for probabilities; NaN where the union is empty.
    """
    return _per_union(sum_ei, n_union)


NHD = Metric("nhd", ("n_union", "n_disagree"), nhd)
EI = Metric("ei", ("n_union", "sum_ei"), ei)


def binary_agreement(
    reference: Array, perturbed: Array, *, threshold: float = 0.5
) -> BinaryAgreement:
    """Count foreground union, disagreement and soft overlap of two maps of one tile.

    Parameters
    ----------
    reference, perturbed
        Foreground probabilities of the unperturbed and the perturbed prediction: arrays of one
        shape, any number of axes, any strides, one dtype (float16, float32, float64, bool or
        integer), both NumPy or both CuPy.
    threshold
        A voxel is foreground if its value is strictly greater than this, compared in the maps' own
        dtype; at least 0.

    Returns
    -------
    BinaryAgreement
        Plain Python numbers, also for CuPy arrays.

    Raises
    ------
    ValueError
        If the shapes differ or the threshold is negative or not finite.
    TypeError
        If the dtypes differ or are not real, or the arrays belong to different libraries.

    Examples
    --------
    >>> counts = binary_agreement(np.array([0.9, 0.8, 0.1]), np.array([0.9, 0.2, 0.1]))
    >>> counts.n_union, counts.nhd
    (2, 0.5)
    """
    counts = binary_agreement_batch(reference[None], perturbed[None], threshold=threshold)
    row = dict(zip(STATISTICS, counts[0].tolist(), strict=True))
    return BinaryAgreement(**{k: v if k == "sum_ei" else int(v) for k, v in row.items()})


def binary_agreement_batch(
    reference: Array,
    perturbed: Array,
    *,
    cores: Sequence[Core] | None = None,
    threshold: float = 0.5,
) -> Array:
    """Count the same as `binary_agreement` for each tile of a batch.

    Parameters
    ----------
    reference, perturbed
        Foreground probabilities, shape (N, ...), as in `binary_agreement`.
    cores
        For each tile the slices of its scored core within its frame, one a spatial axis (at most
        three); the frame around it is not read. None scores the whole frames.
    threshold
        As in `binary_agreement`.

    Returns
    -------
    ndarray of float64, shape (N, len(STATISTICS))
        One row a tile, columns in the order of `STATISTICS`, in the library (and on the device) of
        the maps. A tile's row does not depend on the other tiles of its batch.

    Raises
    ------
    ValueError
        If shapes differ, the threshold is negative or not finite, or a core does not fit its frame.
    TypeError
        If the dtypes differ or are not real, or the arrays belong to different libraries.
    """
    xp = namespace(reference, perturbed)
    _check(reference, perturbed, threshold)
    bounds = _bounds(reference.shape, cores)
    frames = _frames(reference), _frames(perturbed)
    kernel = _implementation(xp, voxels=reference.size)
    return kernel(*frames, bounds, native_threshold(threshold, reference.dtype))


def _implementation(xp: ModuleType, *, voxels: int) -> Callable[[Array, Array, Bounds, Any], Array]:
    """Return an array library's kernel, or the formula where that is quicker."""
    if xp is not np:
        from cte_dask.consistency import _cupy

        return _cupy.foreground_counts
    if not numba_pays(voxels * FORMULA_SECONDS):
        return counts_by_formula
    from cte_dask.consistency import _numba

    return _numba.foreground_counts


def _per_union(amount: npt.ArrayLike, n_union: npt.ArrayLike) -> Array:
    xp = namespace(*(v for v in (amount, n_union) if hasattr(v, "dtype")))
    union = xp.asarray(n_union, dtype=xp.float64)
    # NaN as the divisor, not 0: an empty union is expected and must not warn.
    ratio: Array = xp.asarray(amount, dtype=xp.float64) / xp.where(union > 0, union, math.nan)
    return ratio


def _check(reference: Array, perturbed: Array, threshold: float) -> None:
    if reference.shape != perturbed.shape:
        raise ValueError(
            f"reference {reference.shape} and perturbed {perturbed.shape} must have one shape"
        )
    if reference.dtype != perturbed.dtype:
        raise TypeError(
            f"reference is {reference.dtype}, perturbed is {perturbed.dtype}: compare both in the "
            "dtype the model gave, since casting one moves voxels across the threshold"
        )
    if reference.dtype.kind not in "biuf" and reference.dtype.name != "bfloat16":
        raise TypeError(f"foreground maps must be floating, integer or bool, not {reference.dtype}")
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold {threshold} must be finite and at least 0")


def _frames(maps: Array) -> Array:
    """View (N, ...) as (N, z, y, x)."""
    framed: Array = maps.reshape(maps.shape[0], *_frame(maps.shape[1:]))
    return framed


def _frame(spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Return an extent as (z, y, x): axes beyond three are merged into z, missing ones are 1."""
    padded = (1, 1, 1, *spatial)
    return math.prod(padded[:-2]), *padded[-2:]


def _bounds(shape: tuple[int, ...], cores: Sequence[Core] | None) -> Bounds:
    """Return the corners of each tile's core, shape (N, 6): z0, y0, x0, z1, y1, x1."""
    tiles, *spatial = shape
    if cores is None:
        frame = np.array([0, 0, 0, *_frame(tuple(spatial))], dtype=np.int64)
        return np.tile(frame, (tiles, 1))
    if len(cores) != tiles:
        raise ValueError(f"{len(cores)} cores for {tiles} tiles: one core a tile is needed")
    rows = [_corners(core, spatial) for core in cores]
    return np.array(rows, dtype=np.int64).reshape(tiles, 6)


def _corners(core: Core, frame: Sequence[int]) -> list[int]:
    if len(core) != len(frame) or len(frame) > 3:
        raise ValueError(f"core {core} must have one slice for each of the {len(frame)} <= 3 axes")
    padding = 3 - len(core)
    starts, stops = [0] * padding, [1] * padding
    for span, extent in zip(core, frame, strict=True):
        start, stop, step = span.indices(extent)
        # `indices` clips a stop beyond the extent, which would hide a core outside its frame.
        outside = span.stop is not None and span.stop > extent
        if step != 1 or stop < start or outside:
            raise ValueError(f"core {core} must lie inside its frame {tuple(frame)}, with step 1")
        starts.append(start)
        stops.append(stop)
    return [*starts, *stops]


def counts_by_formula(reference: Array, perturbed: Array, bounds: Array, threshold: Any) -> Array:
    """Count in plain array functions: the definition that the kernels are held to.

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
        # Zeros in place of p[mask], which would copy; sqrt(0) adds nothing to the sum.
        both = xp.where(a & b, p, 0).astype(wide) * xp.where(a & b, q, 0).astype(wide)
        counts[i, 0] = (a | b).sum()
        counts[i, 1] = (a ^ b).sum()
        counts[i, 2] = _sum_in_lanes(xp, xp.sqrt(both))
        counts[i, 3] = a.sum()
        counts[i, 4] = p.size
        counts[i, 5] = ((p != p) | (q != q)).sum()  # noqa: PLR0124 - NaN in any dtype
    return counts


def _sum_in_lanes(xp: ModuleType, roots: Array) -> float:
    """Return a sum over (z, y, x), float64, added up in the order of the kernel."""
    *rows, width = roots.shape
    padded = xp.zeros((*rows, -(-width // LANES) * LANES))
    padded[..., :width] = roots
    total = 0.0
    for lane in padded.reshape(padded.size // LANES, LANES).sum(axis=0).tolist():
        total += lane  # sum() of Python 3.12 is more exact
    return total
