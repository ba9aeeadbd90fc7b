"""The bootstrap: whole units are drawn, medians are those of the tiles drawn, intervals cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal, assert_equal

from cte_dask.ranking.bootstrap import (
    cells,
    interval,
    median,
    median_interval,
    resample,
    weighted_medians,
)


@given(
    values=st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=40),
    parts=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@examples(60)
def test_medians_are_those_of_the_tiles_drawn(values, parts, seed):
    row = np.array(values)
    drawing = resample(10 * (np.arange(len(row)) % parts), seed=seed, resamples=20)
    if len(np.unique(drawing.member[~np.isnan(row)])) < 2:
        assert np.isnan(drawing.medians(row)).all()
        return
    for counts, found in zip(drawing.counts, drawing.medians(row), strict=True):
        assert_equal(found, median(np.repeat(row, counts[drawing.member])))


def test_medians_do_not_depend_on_how_many_weights_are_held_at_once(monkeypatch):
    row = np.random.default_rng(0).random(50)
    drawing = resample(np.arange(50) // 5, seed=0, resamples=30)
    at_once = drawing.medians(row)
    monkeypatch.setattr("cte_dask.ranking.bootstrap.MOST_NUMBERS", 120)
    assert_array_equal(drawing.medians(row), at_once)


def test_units_are_drawn_whole_and_as_many_as_there_are():
    drawing = resample(np.array([7, 7, 3, 9, 3]), seed=0, resamples=40)
    assert_array_equal(drawing.member, [1, 1, 0, 2, 0])
    assert drawing.counts.shape == (40, 3)
    assert (drawing.counts.sum(axis=1) == 3).all()


@pytest.mark.parametrize("seed", [0, 7])
def test_equal_seeds_draw_equal_units(seed):
    first, second = (resample(np.arange(9), seed=seed, resamples=20).counts for _ in range(2))
    assert_array_equal(first, second)
    assert (resample(np.arange(9), seed=seed + 1, resamples=20).counts != first).any()


def test_whole_weights_repeat_values():
    weights = np.array([[1, 1, 1], [0, 0, 4], [2, 0, 2], [0, 0, 0]])
    assert_equal(weighted_medians(np.array([1.0, 2.0, 9.0]), weights), [2, 9, 5, math.nan])


def test_where_there_is_no_number_there_is_no_interval():
    assert_equal(interval(np.full(5, math.nan)), (math.nan, math.nan))
    assert_equal(median_interval(np.empty(0), np.empty(0, np.int64), seed=0), (math.nan, math.nan))
    assert_equal(median(np.array([math.nan])), math.nan)
    assert interval(np.array([math.nan, 2.0, 2.0])) == (2.0, 2.0)


@given(
    values=hnp.arrays(float, st.integers(2, 60), elements=st.floats(0, 1)),
    parts=st.integers(2, 8),
    seed=st.integers(0, 99),
)
@examples(50)
def test_an_interval_lies_within_the_values_and_is_seeded(values, parts, seed):
    cell = np.arange(len(values)) % parts
    low, high = median_interval(values, cell, seed=seed, resamples=200)
    assert values.min() <= low <= high <= values.max()
    assert (low, high) == median_interval(values, cell, seed=seed, resamples=200)


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.8], [0.9, math.nan], [0.9, 0.8, math.nan]])
def test_what_one_region_says_has_no_interval(values):
    units = np.array([0, 0, 1])[: len(values)]
    assert_equal(median_interval(np.array(values), units, seed=0), (math.nan, math.nan))


def test_an_interval_covers_the_true_median_about_as_often_as_it_says():
    """Tiles of a cell share half of their variance; the interval must know."""
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(64), 4)
    covered = 0
    for trial in range(200):
        values = rng.normal(size=64).repeat(4) + rng.normal(size=256)
        low, high = median_interval(values, cell, seed=trial, resamples=300)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_cells_group_neighbours_and_do_not_depend_on_the_order_of_tiles():
    z, y, x = np.meshgrid(range(0, 80, 8), range(0, 320, 32), range(0, 320, 32), indexing="ij")
    starts = np.stack([z.ravel(), y.ravel(), x.ravel()], axis=1)
    number = cells(starts)
    assert len(np.unique(number)) == 64
    shuffled = np.random.default_rng(0).permutation(len(starts))
    np.testing.assert_array_equal(cells(starts[shuffled]), number[shuffled])
    assert np.ptp(starts[number == 0], axis=0).max() <= 320 // 3
