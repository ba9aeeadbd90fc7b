"""Summaries of tiles: the same as from all tiles at once, and never larger than promised."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from cte_dask.ranking.bootstrap import cells
from cte_dask.report.html.tile_summary import BINS, MOST_CELLS, TileSummary, cell_counts
from cte_dask.scoring.block_scores import STATUS

COUNTS = (3, 5, 4)
SCORED = STATUS["scored"]


def summarised(
    values: np.ndarray, *, counts=COUNTS, cells=None, parts: int = 1, compete=None
) -> TileSummary:
    models = tuple(f"m{i}" for i in range(len(values)))
    medians = [np.nanmedian(v) if not np.isnan(v).all() else math.nan for v in values]
    compete = np.ones(len(models), bool) if compete is None else np.array(compete)
    summary = TileSummary(models, counts, cells or counts, compete, np.array(medians))
    for index in np.array_split(np.arange(values.shape[1]), parts):
        summary.add(index, values[:, index], np.full((len(models), len(index)), SCORED))
    return summary


@pytest.fixture
def values() -> np.ndarray:
    drawn = np.random.default_rng(0).random((3, math.prod(COUNTS)))
    drawn[1, ::7] = np.nan
    return drawn


def test_how_tiles_come_in_changes_nothing(values):
    one, many = summarised(values), summarised(values, parts=13)
    for name in ("histogram", "total", "valid", "seen", "wins", "status"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-12)
    assert one.typical == many.typical


def test_a_cell_of_one_tile_is_that_tile(values):
    np.testing.assert_allclose(summarised(values).mean(), values.reshape(3, *COUNTS))


def test_a_cell_of_several_tiles_is_their_mean(values):
    mean = summarised(values, cells=(1, 5, 2)).mean()
    whole = values.reshape(3, *COUNTS)
    np.testing.assert_allclose(mean[:, 0, 1, 0], np.nanmean(whole[:, :, 1, :2], axis=(1, 2)))


def test_the_typical_tiles_are_the_least_the_median_and_the_most_consistent(values):
    for number, kept in enumerate(summarised(values, parts=4).typical.values()):
        row = values[number]
        assert kept["worst"] == (np.nanargmin(row), np.nanmin(row))
        assert kept["best"] == (np.nanargmax(row), np.nanmax(row))
        nearest = np.nanmin(np.abs(row - np.nanmedian(row)))
        assert abs(kept["median"][1] - np.nanmedian(row)) == nearest


def test_quantiles_are_right_to_a_bin(values):
    at = (0.05, 0.5, 0.95)
    expected = np.nanquantile(values, at, axis=1, method="inverted_cdf").T
    neighbour = np.nanquantile(values, at, axis=1, method="higher").T
    found = summarised(values).quantiles(at)
    assert (found >= np.minimum(expected, neighbour) - 1 / BINS).all()
    assert (found <= np.maximum(expected, neighbour) + 1 / BINS).all()


def test_equal_models_share_a_tile_and_degenerate_ones_win_none():
    values = np.array([[0.9, 0.2, np.nan], [0.9, 0.5, np.nan], [1.0, 1.0, 1.0]])
    summary = summarised(values, counts=(1, 1, 3), compete=[True, True, False])
    assert summary.wins[:, 0, 0].tolist() == [[0.5, 0, 0], [0.5, 1, 0], [0, 0, 0]]


def test_regions_are_those_of_the_ranking(values):
    summary = summarised(values)
    starts = np.stack(np.unravel_index(np.arange(values.shape[1]), COUNTS), axis=1)
    expected = np.unique(cells(starts), return_counts=True)[1]
    found = summary.histogram[0].sum(axis=1)
    assert sorted(found[found > 0]) == sorted(expected)


@pytest.mark.parametrize("counts", [(1, 1, 1), (8, 2, 2), (10_000, 3, 1), (4000, 5000, 6000)])
@pytest.mark.parametrize("models", [1, 9, 500])
def test_heat_maps_stay_small_for_any_run(counts, models):
    found = cell_counts(counts, models)
    assert math.prod(found) * models <= MOST_CELLS
    assert all(1 <= c <= min(n, 64) for c, n in zip(found, counts, strict=True))
    if math.prod(counts) * models <= MOST_CELLS and max(counts) <= 64:
        assert found == counts


def test_memory_does_not_grow_with_the_tiles():
    counts, cells_ = (100, 100, 100), cell_counts((100, 100, 100), 2)
    summary = TileSummary(("a", "b"), counts, cells_, np.ones(2, bool), np.full(2, 0.5))
    rng = np.random.default_rng(0)
    size = sum(getattr(summary, n).nbytes for n in ("histogram", "total", "valid", "seen", "wins"))
    tracemalloc.start()
    for index in np.array_split(np.arange(math.prod(counts)), 100):
        summary.add(index, rng.random((2, len(index))), np.full((2, len(index)), SCORED))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert summary.status[0, SCORED] == 1_000_000
    assert peak < size / 2
