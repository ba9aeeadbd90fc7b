"""Ranks, rank correlations and their permutation p-values, by SciPy.

Kendall 1945 (doi:10.1093/biomet/33.3.239) for τ-b, Spearman 1904 (doi:10.2307/1412159) for ρ.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TIE = 1e-6
"""Scores this close always share a rank, also at tolerance 0: rounding must not order models."""

FEWEST_FOR_P = 5
"""Models below which no p-value is given: even a perfect order could not be significant."""

STATISTICS = ("kendall", "spearman", "pearson")

__all__ = ["RankCorrelation", "kendall_rows", "permutation_p", "rank_correlation", "scores_to_rank"]


def scores_to_rank(scores: npt.ArrayLike, *, tolerance: float = 0.0) -> npt.NDArray[np.int64]:
    """Rank scores, the highest first, close ones sharing a rank.

    Neighbouring groups of scores are merged, nearest first, while their means lie no more than
    `tolerance` apart (`TIE` at least). Ranks are dense: 1, 1, 2, 3.

    Parameters
    ----------
    scores
        One score a model, shape (n,).
    tolerance
        Difference of scores that is no difference in rank.

    Returns
    -------
    ndarray of int64, shape (n,)
        1 for the best.

    Raises
    ------
    ValueError
        If a score is NaN, `scores` has more than one axis, or the tolerance is negative.

    Examples
    --------
    >>> scores_to_rank([0.9, 0.89, 0.7, 0.5], tolerance=0.02).tolist()
    [1, 1, 2, 3]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(f"scores must be one axis of numbers without NaN, got {scores!r}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance {tolerance} must be at least 0")
    order = np.argsort(-values, kind="stable")
    sizes = _merged_sizes(values[order], tolerance + TIE)
    ranks = np.empty(values.size, dtype=np.int64)
    ranks[order] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return ranks


def _merged_sizes(descending: Floats, limit: float) -> list[int]:
    """Return the sizes of the groups left after merging, best first."""
    means, sizes = descending.tolist(), [1] * descending.size
    while len(means) > 1:
        gaps = [a - b for a, b in pairwise(means)]
        i = gaps.index(min(gaps))
        if not gaps[i] <= limit:
            break
        size = sizes[i] + sizes[i + 1]
        # A group stands at the mean of its members: a long chain of close scores stops growing.
        means[i : i + 2] = [(means[i] * sizes[i] + means[i + 1] * sizes[i + 1]) / size]
        sizes[i : i + 2] = [size]
    return sizes


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Correlations of CTE with performance over the models of a bank, three coefficients.

    Parameters
    ----------
    kendall
        Kendall's τ-b; scores within `TIE` are tied.
    spearman
        Spearman's ρ, tied scores at their mean rank.
    pearson
        Pearson's r of the raw scores.
    n
        Models compared: those with both scores.
    p_kendall, p_spearman, p_pearson
        Two-sided permutation p-values, None below five models.
    """

    kendall: float
    spearman: float
    pearson: float
    n: int
    p_kendall: float | None
    p_spearman: float | None
    p_pearson: float | None


def rank_correlation(
    cte: npt.ArrayLike, performance: npt.ArrayLike, *, seed: int = 0, n_resamples: int = 9999
) -> RankCorrelation:
    """Compare CTE with performance: Kendall and Spearman on ranks, Pearson on the raw scores.

    Parameters
    ----------
    cte, performance
        One number a model, shape (n,). A model with NaN in either is left out and not part of `n`.
    seed, n_resamples
        Of the permutation p-values, see `permutation_p`.

    Returns
    -------
    RankCorrelation
        NaN where a correlation is undefined (fewer than two models, or all tied).

    Raises
    ------
    ValueError
        If the lengths differ.
    """
    x, y = _paired(cte, performance)
    p = [
        permutation_p(x, y, statistic=name, seed=seed, n_resamples=n_resamples)
        if x.size >= FEWEST_FOR_P
        else None
        for name in STATISTICS
    ]
    kendall, spearman, pearson = (_correlation(x, y, name) for name in STATISTICS)
    return RankCorrelation(kendall, spearman, pearson, x.size, *p)


def _correlation(x: Floats, y: Floats, statistic: str) -> float:
    """Return the correlation SciPy gives; NaN where a side has no two different scores."""
    from scipy import stats

    if statistic != "pearson":
        x, y = _places(x), _places(y)
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    correlate = {
        "kendall": stats.kendalltau,  # τ-b is its default
        "spearman": stats.spearmanr,
        "pearson": stats.pearsonr,
    }[statistic]
    with warnings.catch_warnings(action="ignore", category=stats.NearConstantInputWarning):
        # Floating-point sums of a perfect order may miss 1 in the last digit.
        return round(float(correlate(x, y).statistic), 12)


def permutation_p(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    statistic: str = "kendall",
    seed: int = 0,
    n_resamples: int = 9999,
) -> float:
    """Return the two-sided p-value of a correlation under random pairings.

    Parameters
    ----------
    x, y
        One number a model, shape (n,); a model with NaN in either is left out.
    statistic
        ``"kendall"``, ``"spearman"`` or ``"pearson"``, as in `RankCorrelation`.
    seed
        Seed of the random pairings.
    n_resamples
        If all n! pairings are at most this many, each is counted once and the value is exact;
        otherwise this many are drawn, and the observed pairing is counted with them.

    Returns
    -------
    float
        Share of pairings at least as far from 0 as the observed one; NaN if that is undefined.
        It cannot be less than 2/n!: 1/3 for three models.

    Raises
    ------
    ValueError
        If the lengths differ or the statistic is unknown.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"unknown statistic {statistic!r}: accepted are {', '.join(STATISTICS)}")
    x, y = _paired(x, y)
    if math.isnan(_correlation(x, y, statistic)):
        return math.nan
    from scipy.stats import permutation_test

    a, b = _unit_table(x, statistic), _unit_table(y, statistic)

    def distance(pairings: npt.NDArray[np.int64], axis: int) -> Floats:
        """Return the correlation's distance from 0 for pairings (..., n)."""
        # Kendall's table has a row and a column a model: a pairing reorders both alike.
        rows = pairings if b.ndim == 1 else (pairings[..., :, None], pairings[..., None, :])
        cosine = (b[rows] * a).reshape(*pairings.shape[:-1], -1).sum(axis=-1)
        rounded: Floats = np.abs(cosine).round(12)  # pairings of equal distance must tie
        return rounded

    result = permutation_test(
        (np.arange(x.size),),
        distance,
        permutation_type="pairings",
        alternative="greater",
        n_resamples=n_resamples,
        batch=max(1, 2_000_000 // x.size**2),  # 16 MB of float64 for the pairwise tables
        rng=seed,
    )
    return float(result.pvalue)


def _paired(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"one score and one performance a model are needed: {a.shape}, {b.shape}")
    defined = ~(np.isnan(a) | np.isnan(b))
    return a[defined], b[defined]


def _places(x: Floats) -> Floats:
    """Return negated ranks, so that a higher score has a higher place; close scores share one."""
    return -scores_to_rank(x).astype(np.float64)


def _unit_table(x: Floats, statistic: str) -> Floats:
    """Return the unit vector of one side: the cosine of two of them is their correlation.

    Kendall's is the table of pairwise orders. A pairing only reorders the vector, so thousands of
    pairings cost one product; SciPy's own functions would be called once for each.
    """
    from scipy.stats import rankdata

    if statistic == "kendall":
        table = np.sign(np.subtract.outer(_places(x), _places(x)))
    else:
        values = x if statistic == "pearson" else rankdata(_places(x))
        table = values - values.mean()
    unit: Floats = table / np.linalg.norm(table)
    return unit


def kendall_rows(x: Floats, y: Floats) -> Floats:
    """Return Kendall's τ-b of each row.

    Parameters
    ----------
    x, y
        (row, model); a model with NaN in either is left out of that row, and scores within `TIE`
        are tied.

    Returns
    -------
    ndarray of float64, shape (row,)
        NaN where all are tied.
    """
    defined = ~(np.isnan(x) | np.isnan(y))
    # Pairs of models with a NaN become 0 on both sides: they add to no sum.
    both = defined[:, :, None] & defined[:, None, :]
    a, b = (np.where(both, _ahead(np.where(defined, v, 0.0)), 0.0) for v in (x, y))
    norm = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    ratio: Floats = (a * b).sum(axis=(1, 2)) / np.where(norm > 0, norm, math.nan)
    return ratio


def _ahead(x: Floats) -> Floats:
    """Return which of each two models is ahead in each row: -1, 0 or 1, shape (row, n, n)."""
    differences = x[:, :, None] - x[:, None, :]
    ahead: Floats = np.where(np.abs(differences) > TIE, np.sign(differences), 0.0)
    return ahead
