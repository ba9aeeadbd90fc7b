"""Objects of two labelings: which overlap by how much, and how precisely one finds the other's.

Against labels it is the average precision that instance segmentation is judged by; between two
models, without labels, it tells whether touching objects are kept apart, which votes on voxels
cannot.
"""

from __future__ import annotations

import math

import numpy as np

from cte_dask.arrays import Array, namespace, to_numpy

__all__ = ["THRESHOLDS", "average_precision"]

THRESHOLDS: tuple[float, ...] = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())
"""IoU thresholds 0.5, 0.55 … 0.95 that are averaged."""
MOST_CELLS = 2**20
"""Pairs of ids that are counted in a plain table; more are sorted."""


def average_precision(
    prediction: Array, truth: Array, *, thresholds: tuple[float, ...] = THRESHOLDS
) -> float:
    """Return the mean over IoU thresholds of TP / (TP + FP + FN).

    Parameters
    ----------
    prediction, truth
        Instance labels of one shape, integer, 0 the background; NumPy or CuPy.
    thresholds
        A predicted object is a true positive if its IoU with an object of the truth is strictly
        greater; from 0.5 on no object can match twice.

    Returns
    -------
    float
        In [0, 1]; NaN if neither holds an object, 0 if only one does (Caicedo et al. 2019,
        doi:10.1038/s41592-019-0612-7).

    Raises
    ------
    ValueError
        If the shapes differ, a label is negative, or a threshold is below 0.5 or not below 1.

    Examples
    --------
    >>> average_precision(np.array([1, 1, 0, 2]), np.array([1, 1, 0, 0]))
    0.5
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} must be alike")
    if not all(0.5 <= t < 1 for t in thresholds):
        raise ValueError(f"thresholds {thresholds} must lie in [0.5, 1)")
    if any(labels.size and int(labels.min()) < 0 for labels in (prediction, truth)):
        raise ValueError("labels must not be negative: 0 is the background")
    overlaps, predicted, true = _objects(prediction.ravel(), truth.ravel())
    if not predicted and not true:  # an empty tile says nothing, as in F1
        return math.nan
    true_positives = [int((overlaps > t).sum()) for t in thresholds]
    # predicted + true - tp is TP + FP + FN: each true positive is counted on both sides.
    return float(np.mean([tp / (predicted + true - tp) for tp in true_positives]))


def _objects(prediction: Array, truth: Array) -> tuple[Array, int, int]:
    """Return the IoU of every pair of objects that overlap, and the number of objects each."""
    xp = namespace(prediction, truth)
    p, t = _consecutive(xp, prediction), _consecutive(xp, truth)
    sizes = xp.bincount(p, minlength=1), xp.bincount(t, minlength=1)
    width = len(sizes[1])
    both = (p > 0) & (t > 0)
    # One number a pair of ids: only voxels of two objects are counted.
    pair = p[both].astype(xp.int64) * width + t[both]
    if len(sizes[0]) * width <= max(MOST_CELLS, prediction.size):
        counts = xp.bincount(pair, minlength=1)
        pairs = xp.flatnonzero(counts)
        common = counts[pairs]
    else:
        pairs, common = xp.unique(pair, return_counts=True)
    union = sizes[0][pairs // width] + sizes[1][pairs % width] - common
    predicted, true = (int((size[1:] > 0).sum()) for size in sizes)
    return to_numpy(common / union), predicted, true


def _consecutive(xp: object, labels: Array) -> Array:
    """Return labels that a plain table can count: as they are, or numbered anew if large."""
    if labels.dtype.kind == "b":
        return labels.astype("int64")
    if labels.size and int(labels.max()) <= MOST_CELLS:
        return labels
    ids, numbers = xp.unique(labels, return_inverse=True)  # type: ignore[attr-defined]
    # without a background the first id would become it
    consecutive: Array = numbers.reshape(-1) + (1 if len(ids) and int(ids[0]) > 0 else 0)
    return consecutive
