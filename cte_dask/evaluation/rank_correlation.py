"""Agreement of two rankings: ranks, rank correlations and their permutation p-values.

Kendall 1945 (doi:10.1093/biomet/33.3.239) for τ-b, Spearman 1904 (doi:10.2307/1412159) for ρ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, permutations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TIE = 1e-6
"""Scores this close share a rank, whatever the tolerance asked for."""

FEWEST_FOR_P = 5
"""Models below which no p-value is given: even a perfect order could not be significant."""

__all__ = ["RankCorrelation", "permutation_p", "rank_correlation", "scores_to_rank"]


def scores_to_rank(scores: npt.ArrayLike, *, tolerance: float = 0.0) -> npt.NDArray[np.int64]:
    """Rank scores, the highest first, close ones sharing a rank.

    Neighbouring groups of scores are merged, nearest first, while their means lie no more than
    `tolerance` apart (`TIE` at least). Ranks are dense: 1, 1, 2, 3.

    Parameters
    ----------
    scores
        One score a model, shape (n,).
    tolerance
        Difference of scores that does not count.

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
    """Sizes of the groups left after merging, best first."""
    means, sizes = descending.tolist(), [1] * descending.size
    while len(means) > 1:
        gaps = [a - b for a, b in pairwise(means)]
        i = gaps.index(min(gaps))
        if not gaps[i] <= limit:
            break
        size = sizes[i] + sizes[i + 1]
        means[i : i + 2] = [(means[i] * sizes[i] + means[i + 1] * sizes[i + 1]) / size]
        sizes[i : i + 2] = [size]
    return sizes


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Agreement between CTE and performance over the models of a bank.

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
        One number a model, shape (n,). A model with NaN in either is left out; `n` tells.
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
    kendall, spearman, pearson = (_correlation(t(x), t(y)) for t in _TABLES.values())
    p = [
        permutation_p(x, y, statistic=name, seed=seed, n_resamples=n_resamples)
        if x.size >= FEWEST_FOR_P
        else None
        for name in _TABLES
    ]
    return RankCorrelation(kendall, spearman, pearson, x.size, *p)


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
        Of the random pairings.
    n_resamples
        If all n! pairings are at most this many, each is counted once and the value is exact;
        otherwise this many are drawn, and the observed one counted with them.

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
    if statistic not in _TABLES:
        raise ValueError(f"unknown statistic {statistic!r}: accepted are {', '.join(_TABLES)}")
    x, y = _paired(x, y)
    a, b = _TABLES[statistic](x), _TABLES[statistic](y)
    observed = abs(_correlation(a, b))
    if math.isnan(observed):
        return math.nan
    exact = math.factorial(min(x.size, 20)) <= n_resamples
    pairings = _all_pairings(x.size) if exact else _random_pairings(x.size, n_resamples, seed)
    extreme = total = 0
    for chunk in pairings:
        extreme += int((np.abs(_permuted(a, b, chunk)) >= observed - 1e-12).sum())
        total += len(chunk)
    return extreme / total if exact else (extreme + 1) / (total + 1)


def _paired(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"one score and one performance a model are needed: {a.shape}, {b.shape}")
    known = ~(np.isnan(a) | np.isnan(b))
    return a[known], b[known]


def _order(x: Floats) -> Floats:
    """Which of each two models is ahead: -1, 0 or 1, shape (n, n)."""
    ranks = scores_to_rank(x)
    ahead: Floats = np.sign(ranks[None, :] - ranks[:, None]).astype(np.float64)
    return ahead


def _mean_ranks(x: Floats) -> Floats:
    """Twice the ranks, ties at their mean, centred: how many models are behind less those ahead."""
    balance: Floats = _order(x).sum(axis=1)
    return balance


def _centred(x: Floats) -> Floats:
    centred: Floats = x - (x.sum() / max(1, x.size))
    return centred


# Each correlation is the cosine of two tables: Kendall's of pairwise orders, the rest of vectors.
_TABLES: dict[str, Callable[[Floats], Floats]] = {
    "kendall": _order,
    "spearman": _mean_ranks,
    "pearson": _centred,
}


def _correlation(a: Floats, b: Floats) -> float:
    everyone = np.arange(len(a))[None]
    return float(_permuted(a, b, everyone)[0])


def _permuted(a: Floats, b: Floats, pairings: npt.NDArray[np.int64]) -> Floats:
    """Correlation of `a` with `b` reordered, for each pairing (k, n); NaN if either is all 0."""
    reordered: Floats = (
        b[pairings] if b.ndim == 1 else b[pairings[:, :, None], pairings[:, None, :]]
    )
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    products = (reordered * a).reshape(len(pairings), -1).sum(axis=1)
    cosine: Floats = np.clip(products / (norm or math.nan), -1.0, 1.0)
    return cosine


def _all_pairings(n: int) -> Iterator[npt.NDArray[np.int64]]:
    everyone = permutations(range(n))
    while chunk := list(islice(everyone, _chunk(n))):
        yield np.array(chunk, dtype=np.int64)


def _random_pairings(n: int, count: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for first in range(0, count, _chunk(n)):
        rows = min(_chunk(n), count - first)
        yield rng.permuted(np.tile(np.arange(n, dtype=np.int64), (rows, 1)), axis=1)


def _chunk(n: int) -> int:
    """Pairings handled at once: about 16 MB of float64 for the pairwise tables."""
    return max(1, 2_000_000 // max(1, n * n))
