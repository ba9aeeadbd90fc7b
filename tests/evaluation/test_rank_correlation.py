"""Ranks, rank correlations and their p-values."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from cte_dask.evaluation.rank_correlation import (
    kendall_rows,
    permutation_p,
    rank_correlation,
    scores_to_rank,
)
from tests.golden import cases

scores = st.lists(st.integers(0, 6).map(float), min_size=2, max_size=9)


@st.composite
def paired_scores(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    x = draw(scores)
    return x, draw(st.lists(st.integers(0, 6).map(float), min_size=len(x), max_size=len(x)))


# --- golden cases


@pytest.mark.parametrize("case", cases("CORR"))
def test_correlations_are_those_of_the_definition(case: dict) -> None:
    found = rank_correlation(case["inputs"]["cte"], case["inputs"]["performance"])
    values = found.kendall, found.spearman, found.pearson
    assert_allclose(values, case["independent"]["value"], atol=case["tolerance"], rtol=0)
    assert found.n == len(case["inputs"]["cte"])
    for field, ranks in (("cte", "ranks_cte"), ("performance", "ranks_perf")):
        assert scores_to_rank(case["inputs"][field]).tolist() == case["ref_code"][ranks]


@pytest.mark.parametrize("case", cases("RANK"))
def test_ranks_and_their_significance_are_those_of_the_definition(case: dict) -> None:
    expected = case["independent"]["value"]
    if "scores" in case["inputs"]:
        tolerance = case["params"]["tolerance"]
        assert scores_to_rank(case["inputs"]["scores"], tolerance=tolerance).tolist() == expected
        return
    order = range(case["inputs"]["n_models"])
    found = permutation_p(order, order, n_resamples=case["params"]["n_resamples"])
    assert found == pytest.approx(expected, abs=1e-12)  # exact, so tighter than the case asks


# --- ranks


@given(scores)
def test_ranks_follow_the_scores_densely(x: list) -> None:
    ranks = scores_to_rank(x)
    assert sorted(set(ranks)) == list(range(1, len(set(x)) + 1))
    assert all((x[i] > x[j]) == (ranks[i] < ranks[j]) for i in range(len(x)) for j in range(len(x)))


def test_nearly_equal_scores_share_a_rank() -> None:
    assert scores_to_rank([0.5, 0.5 + 5e-7, 0.4]).tolist() == [1, 1, 2]
    assert scores_to_rank([0.5, 0.5 + 5e-6, 0.4]).tolist() == [2, 1, 3]
    assert scores_to_rank([0.9, 0.88], tolerance=0.02).tolist() == [1, 1]
    assert scores_to_rank([]).tolist() == []


def test_groups_merge_by_their_means_nearest_first() -> None:
    assert scores_to_rank([0.04, 0.02, 0.0], tolerance=0.021).tolist() == [1, 1, 2]  # no chaining
    assert scores_to_rank([0.05, 0.03, 0.02], tolerance=0.021).tolist() == [1, 2, 2]


@pytest.mark.parametrize("bad", [[[1.0, 2.0]], [1.0, math.nan]])
def test_scores_that_cannot_be_ranked_are_refused(bad: list) -> None:
    with pytest.raises(ValueError, match="without NaN"):
        scores_to_rank(bad)
    with pytest.raises(ValueError, match="tolerance"):
        scores_to_rank([1.0], tolerance=-1)


# --- correlations


@given(paired_scores())
def test_correlations_are_those_of_scipy(pair: tuple) -> None:
    x, y = pair
    found = rank_correlation(x, y, n_resamples=9)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert all(math.isnan(v) for v in (found.kendall, found.spearman, found.pearson))
        return
    wanted = [f(x, y).statistic for f in (stats.kendalltau, stats.spearmanr, stats.pearsonr)]
    assert_allclose([found.kendall, found.spearman, found.pearson], wanted, atol=1e-12)


@pytest.mark.parametrize("statistic", ["kendall", "spearman", "pearson"])
@pytest.mark.parametrize("y", [(1, 2, 3, 4, 5), (2, 1, 3, 5, 4), (5, 1, 1, 2, 9)])
def test_few_models_are_permuted_exhaustively(y: tuple, statistic: str) -> None:
    scipy_name = {"kendall": "kendalltau", "spearman": "spearmanr", "pearson": "pearsonr"}
    correlate = getattr(stats, scipy_name[statistic])
    x = range(5)
    observed = abs(correlate(x, y).statistic)
    orders = [abs(correlate(x, order).statistic) for order in permutations(y)]
    wanted = np.mean(np.array(orders) >= observed - 1e-9)
    assert permutation_p(x, y, statistic=statistic) == pytest.approx(wanted, abs=1e-12)


def test_many_models_are_permuted_by_the_seed() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.random((2, 12))
    y = x + noise
    assert permutation_p(x, y, seed=1) == permutation_p(x, y, seed=1)
    assert permutation_p(x, y, seed=1) != permutation_p(x, y, seed=2)
    exact = stats.kendalltau(x, y, method="exact").pvalue
    assert permutation_p(x, y, seed=1) == pytest.approx(exact, abs=0.01)
    assert permutation_p(range(12), range(12)) == 1 / 10_000


def test_p_values_are_given_from_five_models_on() -> None:
    four = rank_correlation(range(4), range(4))
    assert (four.p_kendall, four.p_spearman, four.p_pearson) == (None, None, None)
    five = rank_correlation(range(5), range(5))
    assert five.p_kendall == five.p_spearman == pytest.approx(2 / 120)


def test_models_without_a_score_are_left_out_and_counted() -> None:
    found = rank_correlation([0.1, math.nan, 0.3, 0.4], [1.0, 2.0, 3.0, math.nan])
    assert found.n == 2
    assert found.kendall == 1
    nothing = rank_correlation([], [])
    assert nothing.n == 0
    assert math.isnan(nothing.pearson)


def test_unfit_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="one performance a model"):
        rank_correlation([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="accepted are kendall"):
        permutation_p([1.0], [1.0], statistic="tau")


@pytest.mark.parametrize("n", range(2, 31))
def test_the_same_order_correlates_to_exactly_one(n: int) -> None:
    order = np.random.default_rng(n).permutation(n)
    same, opposite = (rank_correlation(order, y, n_resamples=9) for y in (order, -order))
    assert (same.kendall, same.spearman, same.pearson) == (1, 1, 1)
    assert (opposite.kendall, opposite.spearman, opposite.pearson) == (-1, -1, -1)


def test_scores_that_are_all_the_same_correlate_with_nothing() -> None:
    found = rank_correlation([0.1] * 6, range(6))
    assert all(math.isnan(v) for v in (found.kendall, found.spearman, found.pearson))
    assert math.isnan(found.p_pearson)
    nearly = rank_correlation([0.1] * 5 + [0.1 + 1e-15], range(6))  # no warning either
    assert math.isnan(nearly.kendall)


def test_scipy_is_loaded_by_the_first_correlation_alone() -> None:
    code = "import cte_dask.evaluation.rank_correlation, sys; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- many at once


def test_tau_of_rows_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 40, 7)).astype(float)
    wanted = [stats.kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert_allclose(kendall_rows(x, y), wanted, atol=1e-12)


def test_a_model_without_a_number_is_left_out_of_its_row() -> None:
    x = np.array([[1.0, 2, 3, math.nan], [1.0, 1, 1, 1]])
    y = np.array([[1.0, 3, 2, 4], [1.0, 2, 3, 4]])
    assert_allclose(kendall_rows(x, y), [1 / 3, math.nan])
