"""The bootstrap: units of tiles are drawn with replacement, a statistic is taken of each resample.

Every bootstrap of the package is this one. Units are by default spatial cells of the target, for
neighbouring tiles are alike; intervals are those of percentiles (Efron & Tibshirani 1993,
doi:10.1007/978-1-4899-4541-9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RESAMPLES",
    "TAILS",
    "Resamples",
    "Sampled",
    "cells",
    "draw",
    "interval",
    "median",
    "median_interval",
    "resample",
    "weighted_medians",
]

Floats = NDArray[np.float64]

CELLS_PER_AXIS = 4
RESAMPLES = 1000
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
"""Quantiles that bound an interval."""

MOST_NUMBERS = 2**22
"""Weights held at once, 32 MB of int64."""


def cells(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group tiles into spatial cells, the units of the bootstrap: neighbouring tiles are alike.

    Parameters
    ----------
    starts
        First voxel of each tile (n, 3), zyx.

    Returns
    -------
    ndarray of int64, shape (n,)
        A cell number for each tile. Cells depend on where tiles lie, never on how a run was cut
        into blocks; at most four along each axis.
    """
    number = np.zeros(len(starts), np.int64)
    for axis in range(starts.shape[1]):
        places, index = np.unique(starts[:, axis], return_inverse=True)
        cuts = min(len(places), CELLS_PER_AXIS)
        # digits of a number in base CELLS_PER_AXIS, one an axis
        number = number * CELLS_PER_AXIS + (index * cuts // max(len(places), 1))
    return number


def draw(units: int, *, seed: int, resamples: int = RESAMPLES) -> NDArray[np.int64]:
    """Draw units with replacement, each time as many as there are.

    Parameters
    ----------
    units
        How many there are.
    seed
        Equal seeds draw equal units, so that models and scores are compared on the same ones.
    resamples
        Their number.

    Returns
    -------
    ndarray of int64, shape (resample, unit)
        How often each unit is drawn.
    """
    if not units:  # NumPy refuses to draw none of none
        return np.zeros((resamples, 0), np.int64)
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), size=resamples)


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """How often each unit of tiles is drawn in each resample.

    Parameters
    ----------
    counts
        Counts, int64 (resample, unit).
    member
        Unit of each tile, from 0, (tile,).
    """

    counts: NDArray[np.int64]
    member: NDArray[np.int64]

    def medians(self, values: Floats) -> Floats:
        """Return the median of each resample.

        Parameters
        ----------
        values
            One number a tile, (tile,); NaN ones are left out.

        Returns
        -------
        ndarray of float64, shape (resample,)
            NaN where no tile with a number was drawn; all NaN where fewer than two units have one,
            for drawing the same unit again tells nothing of how units differ.
        """
        order = np.argsort(values, kind="stable")  # NaN come last
        order = order[: np.count_nonzero(~np.isnan(values))]
        ascending, unit = values[order], self.member[order]
        if not (unit != unit[:1]).any():
            return np.full(len(self.counts), math.nan)
        step = max(1, MOST_NUMBERS // len(order))
        # drawing counts for all tiles at once would be resamples × tiles numbers
        chunks = (self.counts[i : i + step, unit] for i in range(0, len(self.counts), step))
        return np.concatenate([weighted_medians(ascending, weights) for weights in chunks])


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A number of a whole target, and what it is in resamples of the target's regions.

    Parameters
    ----------
    value
        The number.
    resampled
        In each resample, (resample,).
    tiles
        What it is made of, one a tile, (tile,).
    """

    value: float
    resampled: Floats
    tiles: Floats

    @classmethod
    def of(cls, tiles: Floats, draws: Resamples) -> Sampled:
        """Return the median over tiles.

        Parameters
        ----------
        tiles
            One number a tile; NaN ones are left out.
        draws
            The resamples.
        """
        return cls(median(tiles), draws.medians(tiles), tiles)

    def __mul__(self, other: Sampled) -> Sampled:
        return Sampled(
            self.value * other.value, self.resampled * other.resampled, self.tiles * other.tiles
        )


def resample(units: NDArray[np.int64], *, seed: int, resamples: int = RESAMPLES) -> Resamples:
    """Draw whole units of tiles with replacement.

    Parameters
    ----------
    units
        Unit of each tile, any numbers, (tile,).
    seed, resamples
        See `draw`.
    """
    names, member = np.unique(units, return_inverse=True)
    return Resamples(draw(len(names), seed=seed, resamples=resamples), member)


def weighted_medians(ascending: Floats, weights: NDArray[np.number]) -> Floats:
    """Return the medians of values repeated by each row of whole weights.

    Parameters
    ----------
    ascending
        The values, (value,).
    weights
        How often each one counts, (row, value).

    Returns
    -------
    ndarray of float64, shape (row,)
        The mean of the middle two if their number is even; NaN where all weights are 0.
    """
    running = np.cumsum(weights, axis=1)
    total = running[:, -1:]
    # argmax finds the first value whose running weight passes the middle
    lower = (running > (total - 1) // 2).argmax(axis=1)
    upper = (running > total // 2).argmax(axis=1)
    middle: Floats = (ascending[lower] + ascending[upper]) / 2
    return np.where(total[:, 0] > 0, middle, math.nan)


def interval(statistics: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of resamples, NaN ones left out.

    Parameters
    ----------
    statistics
        One number a resample, (resample,).

    Returns
    -------
    tuple of float
        NaN twice if there is no number.
    """
    valid = statistics[~np.isnan(statistics)]
    if not len(valid):
        return math.nan, math.nan
    low, high = np.quantile(valid, TAILS)
    return float(low), float(high)


def median_interval(
    values: Floats, units: NDArray[np.int64], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the bootstrap interval of a median.

    Parameters
    ----------
    values
        One number a tile, without NaN, (tile,).
    units
        What is drawn: unit of each tile, (tile,).
    seed, resamples
        See `draw`.

    Returns
    -------
    tuple of float
        NaN twice if the tiles lie in fewer than two units: not known is not zero.
    """
    return interval(resample(units, seed=seed, resamples=resamples).medians(values))


def median(values: Floats) -> float:
    """Return the median of the numbers that are not NaN; NaN if there is none."""
    valid = values[~np.isnan(values)]
    return float(np.median(valid)) if len(valid) else math.nan
