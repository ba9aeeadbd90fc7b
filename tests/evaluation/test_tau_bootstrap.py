"""The bootstrap of τ: against SciPy, and against the intervals of the ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from cte_dask.evaluation.tau_bootstrap import kendall_rows, resamples
from cte_dask.ranking.bootstrap import median_interval


def test_tau_of_rows_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 40, 7)).astype(float)
    wanted = [stats.kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert_allclose(kendall_rows(x, y), wanted, atol=1e-12)


def test_a_model_without_a_number_is_left_out_of_its_row():
    x = np.array([[1.0, 2, 3, math.nan], [1.0, 1, 1, 1]])
    y = np.array([[1.0, 3, 2, 4], [1.0, 2, 3, 4]])
    assert_allclose(kendall_rows(x, y), [1 / 3, math.nan])


def test_medians_are_those_of_the_rankings_bootstrap():
    rng = np.random.default_rng(1)
    values, cell = rng.random(200), rng.integers(0, 9, 200)
    drawn = resamples(cell, seed=3, number=300)
    medians = drawn.medians(values)
    wanted = median_interval(values, cell, seed=3, resamples=300)
    assert_allclose(np.quantile(medians, [0.025, 0.975]), wanted)


def test_medians_leave_out_tiles_without_a_number():
    values = np.array([math.nan, 5.0, math.nan, 7.0])
    drawn = resamples(np.arange(4), seed=0, number=500)
    medians = drawn.medians(values)
    for row, median in zip(drawn.drawn, medians, strict=True):
        repeated = np.repeat([5.0, 7.0], row[[1, 3]])
        wanted = np.median(repeated) if len(repeated) else math.nan
        assert_array_equal(median, wanted)
    assert np.isnan(drawn.medians(np.full(4, math.nan))).all()


def test_tiles_are_drawn_for_score_and_performance_together():
    """Each tile orders the models as it does F1: τ is 1 whatever is drawn."""
    rng = np.random.default_rng(0)
    score = rng.random((5, 30))
    drawn = resamples(np.arange(30), seed=0, number=200)
    x = np.array([drawn.medians(row) for row in score])
    y = np.array([drawn.medians(2 * row + 1) for row in score])
    assert drawn.interval(x, y) == (1.0, 1.0)
    apart = np.array([resamples(np.arange(30), seed=1, number=200).medians(r) for r in score])
    assert drawn.interval(x, apart)[0] < 1


def test_one_unit_gives_no_interval():
    drawn = resamples(np.zeros(6, np.int64), seed=0, number=50)
    x = np.array([drawn.medians(row) for row in np.random.default_rng(0).random((4, 6))])
    assert all(math.isnan(v) for v in drawn.interval(x, x))


@pytest.mark.parametrize("seed", [0, 7])
def test_equal_seeds_draw_equal_tiles(seed):
    first, second = (resamples(np.arange(9), seed=seed, number=20).drawn for _ in range(2))
    assert_array_equal(first, second)
