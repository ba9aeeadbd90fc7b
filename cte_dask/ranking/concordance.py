"""Agreement of tiles on the order of models, and the choice of a strength that follows from it.

Pure statistics on tables (tile, model) of consistencies, each tile a rater and each model what is
rated. NumPy alone is needed, and no labels ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cte_dask.ranking.bootstrap import resample

Floats = npt.NDArray[np.float64]

__all__ = ["LEAST_RATIO", "Choice", "Spread", "choose", "kendall_w", "spread"]

LEAST_RATIO = 1.0
"""What `Spread.ratio` must exceed for a strength to be eligible."""

RESAMPLES = 500


def kendall_w(ratings: npt.ArrayLike) -> float:
    """Return Kendall's coefficient of concordance, corrected for ties.

    W = 12 S / (m²(n³ - n) - m Σ T) for m raters of n items: S is the sum of squares of the items'
    rank sums around their mean, T = Σ (t³ - t) over the groups of t tied items of one rater, and
    tied items get their mean rank (Kendall & Babington Smith 1939, doi:10.1214/aoms/1177732186;
    ties as in Siegel & Castellan 1988, sec. 9.3).

    Parameters
    ----------
    ratings
        Real numbers (rater, item); only their order within a rater counts.

    Returns
    -------
    float
        1 if all raters order the items alike; about 1/m if they order them at random; NaN with
        fewer than two raters or items, or if every rater ties all items.

    Raises
    ------
    ValueError
        If `ratings` has not two axes, or holds NaN.

    Examples
    --------
    >>> kendall_w([[1, 2, 3], [10, 20, 30]])
    1.0
    >>> kendall_w([[1, 2, 3], [3, 2, 1]])
    0.0
    """
    table = _checked(ratings)
    raters, items = table.shape
    if raters < 2 or items < 2:
        return math.nan
    # Twice an item's rank less n + 1: how many items lie below it less how many above. Whole
    # numbers, so that W does not depend on the order of raters or items to the last bit.
    order = np.sign(table[:, :, None] - table[:, None, :]).astype(np.int64)
    sums = order.sum(axis=2).sum(axis=0)
    # Σ (t³ - t) over groups is Σ (t² - 1) over items, t the size of an item's own group.
    tied = (order == 0).sum(axis=2)
    ties = int((tied**2 - 1).sum())
    most = raters**2 * (items**3 - items) - raters * ties
    return 3 * int((sums**2).sum()) / most if most else math.nan


@dataclass(frozen=True, slots=True)
class Spread:
    """How far models lie apart, against how well each one's place is known.

    Parameters
    ----------
    between
        Variance of the models' median consistencies, n - 1 in the denominator.
    within
        Mean over models of the bootstrap variance of the median.
    """

    between: float
    within: float

    @property
    def ratio(self) -> float:
        """(between - within) / within, infinite if `within` is 0 and `between` is not.

        The sampling noise of the medians is itself part of their variance: of models that are all
        alike, `between` is expected to be no larger than `within`. It is therefore taken off once,
        and what is left, the spread that the models themselves have, is compared with the noise.
        Of n alike models with independent noise, a ratio above 1 has the chance that a chi-squared
        over n - 1 degrees of freedom exceeds 2 (n - 1): 4 % with nine models, 14 % with three,
        where 43 % and 37 % would pass without the correction. Noise that models share, such as
        hard tiles, makes it rarer still.
        """
        excess = self.between - self.within
        if self.within == 0:
            return math.inf if excess > 0 else 0.0
        return excess / self.within


def spread(
    consistencies: npt.ArrayLike,
    group: npt.ArrayLike,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Spread:
    """Measure the spread of models between and within.

    Parameters
    ----------
    consistencies
        Table (tile, model) without NaN, so that every median is taken over the same tiles.
    group
        Group of each tile (tile,); groups are drawn as a whole, for neighbouring tiles are alike
        (`cte_dask.ranking.bootstrap.cells`).
    seed, resamples
        Of the bootstrap (`cte_dask.ranking.bootstrap`).

    Returns
    -------
    Spread
        NaN twice with fewer than two groups or models: nothing is known of a spread then.

    Raises
    ------
    ValueError
        If the table has not two axes or holds NaN, or `group` has another length.
    """
    table, member = _checked(consistencies), np.asarray(group)
    if member.shape != table.shape[:1]:
        raise ValueError(f"{member.shape} groups for {table.shape[0]} tiles")
    draws = resample(member, seed=seed, resamples=resamples)
    if draws.counts.shape[1] < 2 or table.shape[1] < 2:
        return Spread(math.nan, math.nan)
    medians = np.stack([draws.medians(column) for column in table.T], axis=1)
    between = float(np.median(table, axis=0).var(ddof=1))
    return Spread(between, float(medians.var(axis=0, ddof=1).mean()))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which strength of a grid was chosen.

    Parameters
    ----------
    index
        Its place in the grid.
    eligible
        Whether each strength could have been chosen.
    fallback
        Whether none was eligible, so that agreement alone chose.
    """

    index: int
    eligible: tuple[bool, ...]
    fallback: bool


def choose(agreement: Sequence[float], ratios: Sequence[float]) -> Choice:
    """Choose the strength of best agreement among those that tell models apart.

    Parameters
    ----------
    agreement
        Kendall's W of each strength, NaN where there is none.
    ratios
        `Spread.ratio` of each strength.

    Returns
    -------
    Choice
        Eligible are strengths whose ratio exceeds `LEAST_RATIO`; if none does, all with a W
        compete. Of equal ones the first is chosen: order a grid from weak to strong.

    Raises
    ------
    ValueError
        If no strength has a W.
    """
    w = np.asarray(agreement, np.float64)
    if not len(w) or np.isnan(w).all():
        raise ValueError("no strength has an agreement to choose by")
    eligible = ~np.isnan(w) & (np.asarray(ratios, np.float64) > LEAST_RATIO)
    pool = eligible if eligible.any() else ~np.isnan(w)
    best = int(np.argmax(np.where(pool, w, -math.inf)))
    return Choice(best, tuple(bool(e) for e in eligible), not eligible.any())


def _checked(table: npt.ArrayLike) -> Floats:
    values = np.asarray(table, np.float64)
    if values.ndim != 2:
        raise ValueError(f"a table (tile, model) is needed, not shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("the table holds NaN: give only tiles on which every model has a value")
    return values
