"""V^Rand: consistency of two instance segmentations over their foreground union.

Talks & Kreshuk, arXiv 2503.00450, eq. 6, in pair form. A background voxel inside the union is an
object of its own; with the background as one label instead, two segmentations that share nothing
would score 1. `contingency` counts the pairs and says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from cte_dask.arrays import Array, namespace
from cte_dask.consistency import Metric
from cte_dask.consistency.contingency import pair_counts

__all__ = ["PAIR_STATISTICS", "VRAND", "pair_statistics_batch", "v_rand", "v_rand_of_pairs"]

PAIR_STATISTICS = ("pair_common", "pair_perturbed", "pair_reference", "n_union")
"""Columns of `pair_statistics_batch`: fields of `contingency.PairCounts`."""


def v_rand_of_pairs(
    pair_common: npt.ArrayLike,
    pair_perturbed: npt.ArrayLike,
    pair_reference: npt.ArrayLike,
    n_union: npt.ArrayLike,
    *,
    alpha: float = 0.5,
) -> Array:
    """Return common / (alpha * perturbed + (1 - alpha) * reference), elementwise.

    Parameters
    ----------
    pair_common, pair_perturbed, pair_reference
        Pairs of voxels in one object, as in `contingency.PairCounts`; scalars or arrays of one
        shape.
    n_union
        Voxels in the foreground union.
    alpha
        Weight of the perturbed segmentation, in [0, 1]: 1 asks only whether its pairs are
        confirmed by the reference (merges cost), 0 whether those of the reference are kept (splits
        cost).

    Returns
    -------
    ndarray of float64
        In [0, 1] for alpha 0.5. NaN where the union is empty or neither side has a pair (only
        objects of one voxel); 0 where only one side has any.

    Raises
    ------
    ValueError
        If alpha is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} must be in [0, 1]")
    values: tuple[Any, ...] = (pair_common, pair_perturbed, pair_reference, n_union)
    xp = namespace(*(v for v in values if hasattr(v, "dtype")))
    common, s, t, n = (xp.asarray(v, dtype=xp.float64) for v in values)
    pairs = alpha * s + (1 - alpha) * t
    # Alpha 0 or 1 looks at one side only; if that side has no pairs, nothing is common: 0 / 1.
    divisor = xp.where(pairs > 0, pairs, 1.0)
    ratio: Array = common / xp.where((n > 0) & (s + t > 0), divisor, math.nan)
    return ratio


VRAND = Metric("vrand", PAIR_STATISTICS, v_rand_of_pairs)


def v_rand(reference: Array, perturbed: Array, *, alpha: float = 0.5, border: int = 0) -> float:
    """Return V^Rand of two instance segmentations of one tile.

    Parameters
    ----------
    reference, perturbed
        Labels of the unperturbed and the perturbed prediction, as in `contingency.pair_counts`.
    alpha
        Weight of the perturbed segmentation, as in `v_rand_of_pairs`; with 0.5 the two sides may
        be exchanged.
    border
        Voxels left out on both sides of the reference's borders, as in `contingency.border_band`.

    Returns
    -------
    float
        1 for equal segmentations, whatever their ids, 0 if nothing is shared; NaN if neither has a
        pair of voxels in one object.

    Raises
    ------
    ValueError, TypeError
        `contingency.pair_counts` and `v_rand_of_pairs` say for which values.

    Examples
    --------
    >>> import numpy as np
    >>> v_rand(np.array([1, 1, 2, 2]), np.array([7, 7, 3, 3]))
    1.0
    >>> v_rand(np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]))
    0.0
    """
    counts = pair_counts(reference, perturbed, border=border)
    return float(v_rand_of_pairs(*counts[: len(PAIR_STATISTICS)], alpha=alpha))


def pair_statistics_batch(
    reference: Array,
    perturbed: Array,
    *,
    cores: Sequence[tuple[slice, ...]] | None = None,
    border: int = 0,
) -> Array:
    """Count the pairs of each tile of a batch.

    Parameters
    ----------
    reference, perturbed
        Labels, shape (N, ...) with one to three spatial axes, as in `contingency.pair_counts`.
    cores
        For each tile the slices of its scored core within its frame. Nothing outside it is read:
        the row is that of the core alone, border band included. None takes the whole frames.
    border
        As in `v_rand`.

    Returns
    -------
    ndarray of int64, shape (N, 4)
        One row a tile, columns as in `PAIR_STATISTICS`, in the library of the labels.

    Raises
    ------
    ValueError, TypeError
        `contingency.pair_counts` says for which labels; ValueError if there is not one core a
        tile, or one does not lie in its frame.
    """
    xp = namespace(reference, perturbed)
    if reference.shape != perturbed.shape:
        raise ValueError(
            f"reference {reference.shape} and perturbed {perturbed.shape} must have one shape"
        )
    tiles, *frame = reference.shape
    frame_box = tuple(slice(0, n) for n in frame)
    boxes = [frame_box] * tiles if cores is None else [_checked(c, frame) for c in cores]
    if len(boxes) != tiles:
        raise ValueError(f"{len(boxes)} cores for {tiles} tiles: one core a tile is needed")
    rows = [
        pair_counts(r[box], p[box], border=border)[: len(PAIR_STATISTICS)]
        for r, p, box in zip(reference, perturbed, boxes, strict=True)
    ]
    table: Array = xp.asarray(rows, dtype=xp.int64).reshape(tiles, len(PAIR_STATISTICS))
    return table


def _checked(core: tuple[slice, ...], frame: Sequence[int]) -> tuple[slice, ...]:
    """Return a core that lies in its frame."""
    fits = len(core) == len(frame) and all(
        span.indices(n)[2] == 1 and (span.stop is None or span.stop <= n)
        for span, n in zip(core, frame, strict=True)
    )
    if not fits:
        raise ValueError(
            f"core {core} must have one slice of step 1 inside each axis of its frame "
            f"{tuple(frame)}"
        )
    return core
