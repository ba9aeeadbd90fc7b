"""Bootstrap over regions of a target: medians of tiles when whole cells of them are drawn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["cell_draws", "cells", "median_interval", "resampled_medians"]

CELLS_PER_AXIS = 4
RESAMPLES = 1000
MOST_NUMBERS = 2**22


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
        places, at = np.unique(starts[:, axis], return_inverse=True)
        parts = min(len(places), CELLS_PER_AXIS)
        number = number * CELLS_PER_AXIS + (at * parts // max(len(places), 1))
    return number


def median_interval(
    values: NDArray[np.float64],
    cell: NDArray[np.int64],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Bootstrap interval of a median, drawing whole cells of tiles.

    Parameters
    ----------
    values
        Tile consistencies without NaN, (n,).
    cell
        Cell of each tile, (n,).
    seed
        Of the resampling; equal seeds draw equal cells for every model.
    level
        Coverage.
    resamples
        Number of resamples.

    Returns
    -------
    tuple of float
        Percentile interval (Efron & Tibshirani 1993, doi:10.1007/978-1-4899-4541-9); NaN twice
        if there is no value.
    """
    if not len(values):
        return math.nan, math.nan
    names, member = np.unique(cell, return_inverse=True)
    drawn = cell_draws(len(names), seed=seed, resamples=resamples)
    medians = resampled_medians(values, member, drawn)
    tail = (1 - level) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def cell_draws(cells: int, *, seed: int, resamples: int) -> NDArray[np.int64]:
    """Draw cells with replacement (Efron & Tibshirani 1993, doi:10.1007/978-1-4899-4541-9).

    Parameters
    ----------
    cells
        How many there are, and how many are drawn each time.
    seed
        Equal seeds draw equal cells, so that models and scores are compared on the same ones.
    resamples
        Number of resamples.

    Returns
    -------
    ndarray of int64, shape (resamples, cells)
        How often each cell is drawn.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(cells, np.full(cells, 1 / cells), size=resamples)


def resampled_medians(
    values: NDArray[np.float64], member: NDArray[np.int64], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the median of each resample.

    Parameters
    ----------
    values
        Of tiles, (tile,); NaN ones are left out.
    member
        Cell of each tile, from 0, (tile,).
    draws
        From `cell_draws`.

    Returns
    -------
    ndarray of float64, shape (resample,)
        NaN where no tile with a value was drawn.
    """
    valid = np.flatnonzero(~np.isnan(values))
    if not len(valid):
        return np.full(len(draws), math.nan)
    order = valid[np.argsort(values[valid], kind="stable")]
    ordered, at = values[order], member[order]
    step = max(1, MOST_NUMBERS // len(order))
    parts = [_medians(ordered, draws[i : i + step, at]) for i in range(0, len(draws), step)]
    return np.concatenate(parts)


def _medians(ordered: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Medians of ascending values repeated `weights` times; the mean of the middle two if even."""
    running = np.cumsum(weights, axis=1)
    total = running[:, -1:]
    lower = (running > (total - 1) // 2).argmax(axis=1)
    upper = (running > total // 2).argmax(axis=1)
    medians: NDArray[np.float64] = (ordered[lower] + ordered[upper]) / 2
    return np.where(total[:, 0] > 0, medians, math.nan)
