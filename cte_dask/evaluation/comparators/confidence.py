"""Entropy and confidence: how sure the reference prediction is of itself.

Two scores that need no labels either, computed from the unperturbed prediction alone.
Both are taken over the voxels of the predicted foreground, p > t, and not over the tile: most
voxels of a micrograph are background of which every model is sure, so that a mean over the tile
tells how much foreground a model predicts rather than how sure of it it is. A tile without
predicted foreground says nothing (NaN), as it does for CTE, and a model's score is likewise the
median over its tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["foreground_confidence", "foreground_entropy"]

Floats = NDArray[np.floating]


def foreground_entropy(probability: Floats, *, threshold: float = 0.5) -> float:
    """Return the mean binary entropy of the predicted foreground, in bits.

    Parameters
    ----------
    probability
        Foreground probability of a tile's voxels, any shape; values outside [0, 1] are clipped.
    threshold
        The foreground is where the probability is strictly greater.

    Returns
    -------
    float
        Mean of -p log2 p - (1 - p) log2 (1 - p) (Shannon 1948,
        doi:10.1002/j.1538-7305.1948.tb01338.x) over the foreground, in [0, 1]; NaN without
        foreground. The lower, the surer: its negative is the score.

    Examples
    --------
    >>> foreground_entropy(np.array([0.0, 0.4, 1.0]))
    0.0
    """
    p = _foreground(probability, threshold)
    if not p.size:
        return float("nan")
    q = np.stack([p, 1 - p])
    return float(0.0 - (q * np.log2(np.where(q > 0, q, 1.0))).sum(axis=0).mean())  # never -0.0


def foreground_confidence(probability: Floats, *, threshold: float = 0.5) -> float:
    """Return the mean confidence, max(p, 1 - p), of the predicted foreground.

    Parameters
    ----------
    probability, threshold
        Map and threshold, as `foreground_entropy` takes them.

    Returns
    -------
    float
        In [0.5, 1], higher is surer (the maximum class probability of Hendrycks & Gimpel 2017,
        arXiv 1610.02136); NaN without foreground.

    Examples
    --------
    >>> foreground_confidence(np.array([0.0, 0.75, 1.0]))
    0.875
    """
    p = _foreground(probability, threshold)
    return float(np.maximum(p, 1 - p).mean()) if p.size else float("nan")


def _foreground(probability: Floats, threshold: float) -> NDArray[np.float64]:
    chosen: NDArray[np.float64] = probability[probability > threshold].astype(np.float64)
    return np.clip(chosen, 0.0, 1.0)
