"""The canonical scale: on it a strength means the same for every target and every model.

The **canonical** image is the raw one scaled once a volume so that the low and high percentiles of
the whole target become 0 and 1, not clipped (Talks & Kreshuk, arXiv 2503.00450, section on input
perturbations). Each model's own preprocessing wants raw units, so what is done to the canonical
image is written as the increment it adds, which is scaled back.

Everything works on NumPy and CuPy arrays. Arithmetic is float32 (float64 for float64 images).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cte_dask.arrays import Array

__all__ = ["CANONICAL_PERCENTILES", "add_increment", "canonical"]

CANONICAL_PERCENTILES = (1.0, 99.8)
"""Percentiles of the whole target that the canonical scale maps to 0 and 1."""


def canonical(raw: Array, *, low: float, high: float) -> Array:
    """Scale raw intensities to the canonical image, ``(raw - low) / (high - low)``.

    Parameters
    ----------
    raw
        Intensities, any shape, real dtype.
    low, high
        The target's low and high percentiles, in raw units.

    Returns
    -------
    ndarray of float32 (float64 for float64 intensities)
        Same shape; not clipped.

    Raises
    ------
    ValueError
        If `high` is not greater than `low`, or one is not finite.
    """
    span = _span(low, high)
    values = _floating(raw)
    scaled: Array = values - values.dtype.type(low)
    scaled /= values.dtype.type(span)
    return scaled


def add_increment(
    raw: Array, increment: Callable[[Array], Array], *, low: float, high: float
) -> Array:
    """Add to a raw image what is to be added to its canonical form.

    Parameters
    ----------
    raw
        Intensities, any shape, real dtype.
    increment
        Function of the canonical image; returns an array of its shape and dtype.
    low, high
        Intensities that become 0 and 1, as `canonical` takes them.

    Returns
    -------
    ndarray of float32
        ``raw + (high - low) * increment``: the same bits as `raw` where the increment is zero.

    Raises
    ------
    ValueError
        If the percentiles are no interval, or the increment has another shape.
    """
    image = canonical(raw, low=low, high=high)
    added = increment(image)
    if added.shape != image.shape:
        raise ValueError(f"an increment of shape {added.shape} for an image of shape {image.shape}")
    change: Array = added * image.dtype.type(_span(low, high))
    change += _floating(raw)
    return change.astype(np.float32, copy=False)


def _floating(raw: Array) -> Array:
    return raw if raw.dtype == np.float64 else raw.astype(np.float32, copy=False)


def _span(low: float, high: float) -> float:
    span = high - low
    if not (math.isfinite(span) and span > 0):
        raise ValueError(
            f"percentiles low={low}, high={high} are no interval: the target looks constant; "
            "choose other percentiles or another region"
        )
    return span
