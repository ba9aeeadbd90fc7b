"""Agreement: Kendall's W, the spread of models, and the rule that chooses a strength."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import friedmanchisquare, rankdata

from cte_dask.ranking.concordance import Spread, choose, kendall_w, spread

TABLES = hnp.arrays(
    float,
    st.tuples(st.integers(2, 8), st.integers(2, 7)),
    elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
)


def textbook_w(ratings: np.ndarray) -> float:
    """W = 12 S / (m²(n³ - n) - m ΣT), from mean ranks, in so many words."""
    m, n = ratings.shape
    sums = sum(rankdata(row) for row in ratings)
    s = ((sums - sums.mean()) ** 2).sum()
    ties = sum(t**3 - t for row in ratings for t in Counter(row.tolist()).values())
    below = m**2 * (n**3 - n) - m * ties
    return 12 * s / below if below else math.nan


@pytest.mark.parametrize(
    ("ratings", "w"),
    [
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3]], 1.0),
        ([[1, 2, 3], [3, 2, 1]], 0.0),
        ([[1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]], 1 / 9),  # sums 6, 7, 8, 9: S = 5, 60 / 540
        ([[1, 1, 3], [10, 20, 20]], 0.75),  # sums 2.5, 4, 5.5: S = 4.5, 54 / (96 - 24)
    ],
)
def test_w_is_what_a_hand_computes(ratings, w):
    assert kendall_w(ratings) == pytest.approx(w, abs=1e-12)


@given(TABLES)
def test_w_follows_the_tie_corrected_formula(table):
    assert kendall_w(table) == pytest.approx(textbook_w(table), abs=1e-12, nan_ok=True)


def test_w_is_friedmans_chi_squared_on_another_scale():
    table = np.round(np.random.default_rng(0).random((12, 5)), 1)
    chi_squared = friedmanchisquare(*table.T).statistic
    assert kendall_w(table) == pytest.approx(chi_squared / (12 * 4))


@given(TABLES, st.randoms(use_true_random=False))
def test_w_depends_on_orders_alone(table, random):
    w = kendall_w(table)
    raters, items = list(range(table.shape[0])), list(range(table.shape[1]))
    random.shuffle(raters)
    random.shuffle(items)
    same = [
        table[raters],
        table[:, items],
        np.exp(3 * table),
        table + np.arange(len(table))[:, None],
        -table,
        np.vstack([table, table]),
    ]
    assert math.isnan(w) or 0 <= w <= 1
    for other in same:
        assert kendall_w(other) == pytest.approx(w, abs=1e-12, nan_ok=True)


def test_w_of_random_orders_is_one_over_the_number_of_raters():
    rng = np.random.default_rng(1)
    found = [kendall_w(rng.random((10, 6))) for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("ratings", [[[1, 2]], [[1], [2]], [[1, 1], [2, 2]]])
def test_where_nothing_can_agree_there_is_no_w(ratings):
    assert math.isnan(kendall_w(ratings))


@pytest.mark.parametrize("ratings", [[1, 2, 3], [[1, math.nan], [1, 2]]])
def test_what_is_no_table_of_numbers_is_refused(ratings):
    with pytest.raises(ValueError, match="table"):
        kendall_w(ratings)
    with pytest.raises(ValueError, match="table"):
        spread(ratings, [0, 1], seed=0)


def table_of(apart: float, noise: float, *, seed: int = 0, tiles: int = 64) -> np.ndarray:
    """Nine models whose places are evenly `apart`, on tiles with independent noise."""
    rng = np.random.default_rng(seed)
    return 0.5 + apart * np.arange(9) + noise * rng.standard_normal((tiles, 9))


def test_spread_is_the_variance_of_medians_and_of_the_median():
    noise = 0.1
    found = spread(table_of(0.05, noise, tiles=400), np.arange(400), seed=0)
    assert found.between == pytest.approx(np.var(0.05 * np.arange(9), ddof=1), rel=0.1)
    assert found.within == pytest.approx(math.pi / 2 * noise**2 / 400, rel=0.25)
    assert found.ratio == (found.between - found.within) / found.within


def test_models_that_are_alike_rarely_pass_and_models_apart_always_do():
    passed = {0.0: 0, 0.05: 0}
    for apart in passed:
        for seed in range(100):
            table = table_of(apart, 0.1, seed=seed)
            passed[apart] += spread(table, np.arange(64), seed=seed, resamples=100).ratio > 1
    assert passed[0.0] <= 12
    assert passed[0.05] == 100


def test_noise_that_neighbours_share_counts_as_noise():
    table = np.repeat(table_of(0.0, 0.1, tiles=16), 16, axis=0)
    alone = spread(table, np.arange(256), seed=0)
    together = spread(table, np.repeat(np.arange(16), 16), seed=0)
    assert together.between == alone.between
    assert together.within > 8 * alone.within


@examples(30)
@given(TABLES, st.integers(0, 9))
def test_spread_is_seeded_and_moves_with_no_shift(table, seed):
    group = np.arange(len(table))
    found = spread(table, group, seed=seed, resamples=50)
    assert found == spread(table, group, seed=seed, resamples=50)
    moved = spread(table + 2, group, seed=seed, resamples=50)
    assert moved.between == pytest.approx(found.between, abs=1e-12)
    assert moved.within == pytest.approx(found.within, abs=1e-12)
    assert found.between >= 0
    assert found.within >= 0


def test_a_spread_without_noise_is_infinite_and_none_at_all_is_nothing():
    assert Spread(0.1, 0.0).ratio == math.inf
    assert Spread(0.0, 0.0).ratio == 0.0
    assert math.isnan(spread(np.ones((3, 2)), [0, 0, 0], seed=0).ratio)


def test_groups_of_another_number_of_tiles_are_refused():
    with pytest.raises(ValueError, match="3 tiles"):
        spread(np.ones((3, 2)), [0, 1], seed=0)


def test_the_best_agreement_among_the_eligible_is_chosen():
    choice = choose([0.9, 0.5, 0.7, 0.6], [0.8, 3.0, 2.0, math.inf])
    assert choice.index == 2
    assert choice.eligible == (False, True, True, True)
    assert not choice.fallback


def test_where_none_is_eligible_agreement_alone_chooses_and_says_so():
    choice = choose([0.2, math.nan, 0.4], [0.1, 9.0, -0.5])
    assert (choice.index, choice.eligible, choice.fallback) == (2, (False,) * 3, True)


def test_of_equal_strengths_the_weakest_is_chosen():
    assert choose([0.5, 0.7, 0.7], [2, 2, 2]).index == 1


@pytest.mark.parametrize("agreement", [[], [math.nan, math.nan]])
def test_without_any_agreement_there_is_no_choice(agreement):
    with pytest.raises(ValueError, match="no strength"):
        choose(agreement, [1.0] * len(agreement))


def test_too_weak_and_too_strong_strengths_are_ineligible_in_a_simulated_sweep():
    """Weak: all models near 1, noise alone. Strong: all near 0. Between them, a real order."""
    rng = np.random.default_rng(3)
    robustness = np.linspace(0.15, 0.35, 7)
    strengths = (0.001, 0.2, 5.0)
    tables = [
        np.exp(-((s / robustness) ** 2)) + 0.05 * rng.standard_normal((64, 7)) for s in strengths
    ]
    spreads = [spread(t, np.arange(64), seed=0).ratio for t in tables]
    choice = choose([kendall_w(t) for t in tables], spreads)
    assert choice.eligible == (False, True, False)
    assert choice.index == 1
