"""Flags: signs in a model's unperturbed predictions that its score cannot be trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLIND",
    "DISTRUSTED",
    "EVERYTHING",
    "FAILED",
    "FLOODS",
    "NOTHING",
    "SPARSE",
    "UNSTEADY",
    "degenerate",
    "flag",
    "floods",
]

NOTHING = "predicts nothing"
EVERYTHING = "predicts everything"
SPARSE = "predicts very little"
FAILED = "failed on some tiles"
UNSTEADY = "not deterministic"
BLIND = "ignores the image"
FLOODS = "predicts far more than the others"
DISTRUSTED = frozenset({NOTHING, EVERYTHING, FLOODS, UNSTEADY, BLIND})
"""Flags of models that rank below all others, whatever their score, and have no say."""
NAN_FRACTION_FLAG = 0.95
FOREGROUND_FLAG = 0.95
SPARSE_FLAG = 0.001
FLOOD_FOREGROUND, FLOOD_F1 = 0.75, 0.5
"""Of a model that marks so much of a tile, and of which the others see a third at most: an F1 of
one half is reached by marking three times what there is, and missing nothing."""


def flag(n_tiles: int, nan_fraction: float, foreground: float) -> tuple[str, ...]:
    """Return the flags of a model's predictions.

    Parameters
    ----------
    n_tiles
        Tiles scored.
    nan_fraction
        Fraction of them without foreground.
    foreground
        Median over tiles of the fraction of foreground voxels.
    """
    if n_tiles and nan_fraction >= NAN_FRACTION_FLAG:
        return (NOTHING,)
    if foreground >= FOREGROUND_FLAG:
        return (EVERYTHING,)
    return (SPARSE,) if foreground < SPARSE_FLAG else ()


def floods(foreground: float, f1: float) -> bool:
    """Return whether a model marks most of each tile, against what the others of its bank see.

    Parameters
    ----------
    foreground
        Median over tiles of the fraction of foreground voxels.
    f1
        Its F1 expected of what the others see; NaN where that is not known.
    """
    return foreground >= FLOOD_FOREGROUND and f1 <= FLOOD_F1


def degenerate(n_reference: NDArray[np.float64], n_voxels: NDArray[np.float64]) -> bool:
    """Return whether a model predicts nothing or everything.

    Parameters
    ----------
    n_reference, n_voxels
        Foreground voxels, and all voxels, of each tile scored.
    """
    if not len(n_voxels):
        return True
    fraction = float(np.median(n_reference / n_voxels))
    empty = float((n_reference == 0).mean())
    return not {NOTHING, EVERYTHING}.isdisjoint(flag(len(n_voxels), empty, fraction))
