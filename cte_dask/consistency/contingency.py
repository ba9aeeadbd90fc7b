"""Pair counts: what V^Rand needs of the contingency table of two labelings of one tile.

Let U be the union of both foregrounds (label > 0), n = |U|, c the sizes of the intersections of a
reference with a perturbed object inside U, t and s the sizes of the reference and of the perturbed
objects inside U. A background voxel inside U is an object of its own. V^Rand (Talks & Kreshuk,
arXiv 2503.00450, eq. 6, in pair form) needs the ordered pairs of distinct voxels that share an
object::

    pair_common    = sum c^2 - n    in both labelings
    pair_perturbed = sum s^2 - n    in the perturbed labeling
    pair_reference = sum t^2 - n    in the reference

Each of the three tables splits U into parts, so its sizes add to n and the sum of squares less n is
the sum of size * (size - 1). A part of one voxel adds 1 * 0: background voxels, which are parts of
one voxel in their own labeling and hence in the intersection, drop out and need no id. The sums run
over true objects only, and since no square is added and taken away again, nothing cancels.

All of it is exact: for a tile of at most 2**31 voxels the largest sum is n (n - 1) < 2**62, and
every count fits int64. Memory follows the number of pairs of objects that meet, never the product
of the numbers of objects.
"""

from __future__ import annotations

import importlib.util
import operator
from collections.abc import Callable, Iterator
from itertools import product
from types import ModuleType
from typing import NamedTuple

import numpy as np

from cte_dask.arrays import Array, namespace

Chunks = Iterator[tuple[Array, Array]]
PairSums = tuple[int, int, int, int, int, int]

__all__ = ["MAX_VOXELS", "PairCounts", "border_band", "pair_counts"]

MAX_VOXELS = 2**31
"""Largest tile whose pair counts certainly fit int64."""


class PairCounts(NamedTuple):
    """Counts of voxels, and of pairs of voxels in one object, in two labelings of one tile.

    Attributes
    ----------
    pair_common
        Ordered pairs of distinct voxels that lie in one object in both labelings: sum c^2 - n.
    pair_perturbed
        The same in the perturbed labeling, sum s^2 - n.
    pair_reference
        The same in the reference, sum t^2 - n.
    n_union
        Voxels with an object in either labeling, n = |U|.
    n_reference, n_perturbed
        Voxels with an object in the reference, and in the perturbed labeling.
    n_voxels
        Voxels compared; those left out by a mask or a border band are in none of the counts.
    """

    pair_common: int
    pair_perturbed: int
    pair_reference: int
    n_union: int
    n_reference: int
    n_perturbed: int
    n_voxels: int


def pair_counts(
    reference: Array, perturbed: Array, *, mask: Array | None = None, border: int = 0
) -> PairCounts:
    """Count the pairs of voxels that two labelings of one tile put together.

    Parameters
    ----------
    reference, perturbed
        Labels of the unperturbed and the perturbed prediction: arrays of one shape with one to
        three axes, any strides, any integer dtype (not necessarily one), both NumPy or both CuPy.
        0 is background; ids are positive, of any size, not necessarily consecutive.
    mask
        Boolean array of the same shape and library: only voxels where it is True are compared.
        None compares all.
    border
        Width in voxels of the band left out on both sides of the reference's borders, see
        `border_band`; 0 leaves nothing out.

    Returns
    -------
    PairCounts
        Plain Python integers, exact, also for CuPy arrays.

    Raises
    ------
    ValueError
        If shapes differ, a label or the border is negative, or the tile has more than `MAX_VOXELS`
        voxels.
    TypeError
        If labels are not integers, the mask is not boolean, or arrays of different libraries meet.

    Examples
    --------
    >>> pair_counts(np.array([1, 1, 1, 0]), np.array([5, 5, 0, 5]))
    PairCounts(pair_common=2, pair_perturbed=6, pair_reference=6, n_union=4, n_reference=3, \
n_perturbed=3, n_voxels=4)
    """
    xp = namespace(*(a for a in (reference, perturbed, mask) if a is not None))
    _check(reference, perturbed, mask)
    selection = _selection(reference, mask, check_border(border))
    pair_sums, voxels = _implementation(xp)
    sums = pair_sums(_chunks(reference, perturbed, selection, voxels))
    n_voxels = reference.size if selection is None else int(selection.sum())
    return PairCounts(*sums, n_voxels=n_voxels)


def border_band(labels: Array, width: int) -> Array:
    """Return where a labeling has a border nearby.

    A voxel lies in the band if a voxel of another label (the background is a label here) can be
    reached from it in at most `width` steps through voxel faces. For width 1 these are the voxels
    on both sides of each border, scikit-image's ``find_boundaries(mode="thick", connectivity=1)``;
    each further voxel of width is one dilation with the cross. The edge of the array is no border.

    Parameters
    ----------
    labels
        NumPy or CuPy array with any number of axes.
    width
        Number of voxels on each side; at least 1.

    Returns
    -------
    ndarray of bool
        Of the shape and library of `labels`.
    """
    band = _either_side(labels, operator.ne)
    # On booleans, "either of two neighbours" is one dilation with the cross.
    for _ in range(width - 1):
        band = band | _either_side(band, operator.or_)
    return band


def check_border(border: int) -> int:
    """Return a border width as an int.

    Parameters
    ----------
    border
        Voxels on each side of a border that are left out.

    Raises
    ------
    ValueError
        If it is negative.
    TypeError
        If it is no integer.
    """
    width = operator.index(border)
    if width < 0:
        raise ValueError(f"border {border} must be at least 0 voxels")
    return width


def _either_side(values: Array, relation: Callable[[Array, Array], Array]) -> Array:
    """Mark both of two face neighbours wherever a relation holds between them."""
    xp = namespace(values)
    marked: Array = xp.zeros(values.shape, dtype=bool)
    for axis in range(values.ndim):
        ahead, behind = (
            (*(slice(None),) * axis, span) for span in (slice(1, None), slice(None, -1))
        )
        holds = relation(values[ahead], values[behind])
        marked[ahead] |= holds
        marked[behind] |= holds
    return marked


def _selection(reference: Array, mask: Array | None, border: int) -> Array | None:
    """Return a mask of the voxels to compare, or None for all of them."""
    if not border:
        return mask
    outside_band = ~border_band(reference, border)
    return outside_band if mask is None else outside_band & mask


def _implementation(xp: ModuleType) -> tuple[Callable[[Chunks], PairSums], int]:
    """Return the hash table (CPU) or the sort (GPU, no Numba), and its voxels a chunk."""
    if xp is np and importlib.util.find_spec("numba") is not None:
        from cte_dask.consistency import _numba_pairs

        return _numba_pairs.pair_sums, _numba_pairs.CHUNK_VOXELS
    from cte_dask.consistency import _sorted_pairs

    return _sorted_pairs.pair_sums, _sorted_pairs.CHUNK_VOXELS


def _chunks(reference: Array, perturbed: Array, selection: Array | None, voxels: int) -> Chunks:
    """Yield the ids of a tile a few rows at a time, in the one dtype and layout that is counted."""
    for rows in _boxes_of_rows(reference.shape, voxels):
        rows_mask = None if selection is None else selection[rows]
        yield _ids(reference[rows], rows_mask), _ids(perturbed[rows], rows_mask)


def _boxes_of_rows(shape: tuple[int, ...], voxels: int) -> Iterator[tuple[slice, ...]]:
    """Cover a shape by boxes of whole rows along x, of about `voxels` each."""
    *leading, nx = shape
    left = max(1, voxels // max(1, nx))
    steps = []
    # The budget is spent from the fast axis outwards: whole rows, then whole planes.
    for n in reversed(leading):
        steps.append(max(1, min(left, n)))
        left = max(1, left // max(1, n))
    starts = (range(0, n, step) for n, step in zip(leading, reversed(steps), strict=True))
    for corner in product(*starts):
        yield tuple(slice(a, a + b) for a, b in zip(corner, reversed(steps), strict=True))


def _ids(labels: Array, selection: Array | None) -> Array:
    """Return flat int64 ids, 0 where nothing is compared.

    uint64 ids of 2**63 and above become negative but stay distinct, which is all that counting
    needs.
    """
    xp = namespace(labels)
    ids: Array = labels.astype(xp.int64).ravel()
    return ids if selection is None else xp.where(selection.ravel(), ids, 0)


def _check(reference: Array, perturbed: Array, mask: Array | None) -> None:
    shape = reference.shape
    if perturbed.shape != shape or (mask is not None and mask.shape != shape):
        others = [a.shape for a in (perturbed, mask) if a is not None]
        raise ValueError(f"reference {shape}, perturbed (and mask) {others} must have one shape")
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"labels of shape {shape} must have one to three axes")
    if reference.size > MAX_VOXELS:
        raise ValueError(
            f"a tile of shape {shape} has more than {MAX_VOXELS} voxels: choose smaller tiles"
        )
    if mask is not None and mask.dtype != bool:
        raise TypeError(f"mask must be bool, not {mask.dtype}")
    for name, labels in (("reference", reference), ("perturbed", perturbed)):
        _check_labels(name, labels)


def _check_labels(name: str, labels: Array) -> None:
    if labels.dtype.kind not in "iub":
        raise TypeError(
            f"{name} labels must be integers, not {labels.dtype}: instances come from a segmenter, "
            "probability maps go to binary_agreement"
        )
    if labels.dtype.kind == "i" and labels.size and int(labels.min()) < 0:
        raise ValueError(
            f"{name} holds the label {int(labels.min())}: accepted are 0 for background and "
            "positive ids; map an ignore label to 0, or leave its voxels out after that by mask"
        )
