"""Performance against labels: F1 of the foreground and average precision of instances.

Needs NumPy alone. Labels are used in this room and nowhere else.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from cte_dask.arrays import Array

__all__ = ["THRESHOLDS", "average_precision", "f1", "f1_of_counts", "foreground_counts"]

Floats = npt.NDArray[np.float64]


def f1(prediction: Array, truth: Array) -> float:
    """Return the F1 score (Dice coefficient) of a foreground mask.

    Parameters
    ----------
    prediction
        Foreground mask: true, or nonzero, is foreground.
    truth
        Mask or instance labels of the same shape; 0 is background.

    Returns
    -------
    float
        2 TP / (2 TP + FP + FN) in [0, 1]; NaN if neither holds any foreground, 0 if only one does.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    return float(f1_of_counts(*foreground_counts(prediction, truth)))


def foreground_counts(prediction: Array, truth: Array) -> tuple[int, int, int]:
    """Count true positives, false positives and false negatives of a foreground mask.

    Parameters
    ----------
    prediction, truth
        As in `f1`. Counts of tiles add up.

    Returns
    -------
    tuple of int
        TP, FP, FN in voxels.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    predicted, true = prediction != 0, truth != 0
    hits = int((predicted & true).sum())
    return hits, int(predicted.sum()) - hits, int(true.sum()) - hits


def f1_of_counts(tp: npt.ArrayLike, fp: npt.ArrayLike, fn: npt.ArrayLike) -> Floats:
    """Return F1 from counts, elementwise.

    Parameters
    ----------
    tp, fp, fn
        Voxels, scalars or arrays of one shape.

    Returns
    -------
    ndarray of float64
        2 TP / (2 TP + FP + FN); NaN where all three are 0.
    """
    twice = 2.0 * np.asarray(tp, dtype=np.float64)
    total = twice + np.asarray(fp, dtype=np.float64) + np.asarray(fn, dtype=np.float64)
    ratio: Floats = twice / np.where(total > 0, total, np.nan)
    return ratio


THRESHOLDS: tuple[float, ...] = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())
"""IoU thresholds 0.5, 0.55 … 0.95 that are averaged."""


def average_precision(
    prediction: Array, truth: Array, *, thresholds: tuple[float, ...] = THRESHOLDS
) -> float:
    """Return the mean over IoU thresholds of TP / (TP + FP + FN).

    Parameters
    ----------
    prediction, truth
        Instance labels of one shape, integer, 0 the background.
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
    overlaps, predicted, true = _objects(prediction.ravel(), truth.ravel())
    if not predicted and not true:  # an empty tile says nothing, as in F1
        return math.nan
    true_positives = [int((overlaps > t).sum()) for t in thresholds]
    # predicted + true - tp is TP + FP + FN: each true positive is counted on both sides.
    return float(np.mean([tp / (predicted + true - tp) for tp in true_positives]))


def _objects(
    prediction: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[NDArray[np.float64], int, int]:
    """Return the IoU of every pair of objects that overlap, and the number of objects each."""
    p_ids, p = np.unique(prediction, return_inverse=True)
    t_ids, t = np.unique(truth, return_inverse=True)
    if min(p_ids.min(initial=0), t_ids.min(initial=0)) < 0:
        raise ValueError("labels must not be negative: 0 is the background")
    # One number a pair of ids, so that a single sort counts all intersections: only pairs that
    # occur take memory.
    pairs, common = np.unique(p.astype(np.int64) * len(t_ids) + t, return_counts=True)
    row, column = pairs // len(t_ids), pairs % len(t_ids)
    real = (p_ids[row] > 0) & (t_ids[column] > 0)
    sizes = np.bincount(p), np.bincount(t)
    union = sizes[0][row] + sizes[1][column] - common
    return (common / union)[real], int((p_ids > 0).sum()), int((t_ids > 0).sum())
