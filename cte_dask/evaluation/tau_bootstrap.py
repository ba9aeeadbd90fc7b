"""Bootstrap of Kendall's τ: tiles are drawn again, for CTE and performance together. NumPy alone.

Percentile intervals (Efron & Tibshirani 1993, doi:10.1007/978-1-4899-4541-9). What is drawn are
units of tiles, by default the spatial cells of `cte_dask.ranking.rank.cells`: neighbours are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cte_dask.evaluation.rank_correlation import TIE

__all__ = ["Resamples", "kendall_rows", "resamples"]

Floats = NDArray[np.float64]
CHUNK = 64


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """How often each unit of tiles is drawn in each resample.

    Parameters
    ----------
    drawn
        Counts, int64 (resample, unit).
    member
        Unit of each tile, (tile,).
    """

    drawn: NDArray[np.int64]
    member: NDArray[np.int64]

    def medians(self, values: Floats) -> Floats:
        """Return the median of each resample, NaN tiles left out.

        Parameters
        ----------
        values
            One number a tile, (tile,).

        Returns
        -------
        ndarray of float64, shape (resample,)
            NaN where no tile with a number was drawn.
        """
        order = np.argsort(values, kind="stable")  # NaN come last
        order = order[: np.count_nonzero(~np.isnan(values))]
        if not len(order):
            return np.full(len(self.drawn), math.nan)
        ordered, member = values[order], self.member[order]
        parts = [
            _medians(ordered, self.drawn[low : low + CHUNK, member])
            for low in range(0, len(self.drawn), CHUNK)
        ]
        return np.concatenate(parts)

    def interval(self, x: Floats, y: Floats, *, level: float = 0.95) -> tuple[float, float]:
        """Return the bootstrap interval of Kendall's τ-b between medians.

        Parameters
        ----------
        x, y
            Medians, (model, resample), from `medians`.
        level
            Coverage.

        Returns
        -------
        tuple of float
            NaN twice where fewer than two units were there to draw from, or τ is undefined.
        """
        found = kendall_rows(x.T, y.T)
        found = found[~np.isnan(found)]
        if self.drawn.shape[1] < 2 or not len(found):
            return math.nan, math.nan
        tail = (1 - level) / 2
        low, high = np.quantile(found, [tail, 1 - tail])
        return float(low), float(high)


def resamples(units: NDArray[np.int64], *, seed: int, number: int) -> Resamples:
    """Draw units of tiles with replacement, as many as there are.

    Parameters
    ----------
    units
        Unit of each tile, (tile,).
    seed, number
        Of the drawing.
    """
    names, member = np.unique(units, return_inverse=True)
    count = max(1, len(names))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=number)
    return Resamples(drawn, member)


def _medians(ordered: Floats, weights: NDArray[np.int64]) -> Floats:
    """Medians of ascending values repeated by each row of weights; the mean of the middle two."""
    running = np.cumsum(weights, axis=1)
    total = running[:, -1:]
    last = len(ordered) - 1
    lower = np.minimum((running <= (total - 1) // 2).sum(axis=1), last)
    upper = np.minimum((running <= total // 2).sum(axis=1), last)
    middle: Floats = (ordered[lower] + ordered[upper]) / 2
    return np.where(total[:, 0] > 0, middle, math.nan)


def kendall_rows(x: Floats, y: Floats) -> Floats:
    """Return Kendall's τ-b of each row.

    Parameters
    ----------
    x, y
        (row, model); a model with NaN in either is left out of that row, and scores within
        `cte_dask.evaluation.rank_correlation.TIE` are tied.

    Returns
    -------
    ndarray of float64, shape (row,)
        NaN where all are tied.
    """
    known = ~(np.isnan(x) | np.isnan(y))
    both = known[:, :, None] & known[:, None, :]
    a, b = (np.where(both, _order(np.where(known, v, 0.0)), 0.0) for v in (x, y))
    norm = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    ratio: Floats = (a * b).sum(axis=(1, 2)) / np.where(norm > 0, norm, math.nan)
    return ratio


def _order(x: Floats) -> Floats:
    apart = x[:, :, None] - x[:, None, :]
    ahead: Floats = np.where(np.abs(apart) > TIE, np.sign(apart), 0.0)
    return ahead
