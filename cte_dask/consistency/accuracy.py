"""F1 of a foreground mask against labels; of instances see `cte_dask.consistency.objects`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array

__all__ = ["f1", "f1_of_counts", "foreground_counts"]

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
