"""The numbers of tiles by name: views, marks, and the consistency that follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from cte_dask.consistency.binary import nhd
from cte_dask.scoring.block_scores import (
    STATUS,
    TILE_STATISTICS,
    BlockScores,
    joined,
    unscored,
)


def random_scores(shape, seed=0):
    """Tiles with a foreground, some of which were not scored and some of which are empty."""
    random = np.random.default_rng(seed)
    scores = unscored(shape, "scored")
    for name in TILE_STATISTICS:
        scores.statistics[name][:] = random.integers(1, 50, shape)
    scores.statistics["n_union"][:] = random.integers(0, 2, shape) * 100
    scores.status[random.random(shape) < 0.3] = STATUS["masked"]
    return scores


def test_tiles_without_scores_have_a_status_and_no_number():
    scores = unscored((2, 3, 4), "masked")
    assert scores.status.dtype == np.int8
    assert (scores.status == STATUS["masked"]).all()
    assert set(scores.statistics) == set(TILE_STATISTICS)
    assert all(np.isnan(n).all() and n.shape == (2, 3, 4) for n in scores.statistics.values())


def test_an_index_is_a_view_of_all_numbers_at_once():
    scores = unscored((2, 3, 4), "masked")
    scores[1][:, [0, 2]] = random_scores((3, 2))
    want = random_scores((3, 2))
    for name in TILE_STATISTICS:
        np.testing.assert_array_equal(scores.statistics[name][1][:, [0, 2]], want.statistics[name])
        assert np.isnan(scores.statistics[name][1][:, [1, 3]]).all()
        assert np.isnan(scores.statistics[name][0]).all()
    np.testing.assert_array_equal(scores.status[1][:, [0, 2]], want.status)


@pytest.mark.parametrize("models", [[1], (0, 2), range(1, 3), []])
def test_marking_models_drops_their_numbers_and_no_others(models):
    block = BlockScores(0, random_scores((3, 2, 5)), {})
    before = random_scores((3, 2, 5))
    block.mark(models, "failed")
    for model in range(3):
        for name in TILE_STATISTICS:
            numbers = block.statistics[name][model]
            if model in models:
                assert np.isnan(numbers).all()
                assert (block.status[model] == STATUS["failed"]).all()
            else:
                np.testing.assert_array_equal(numbers, before.statistics[name][model])
                np.testing.assert_array_equal(block.status[model], before.status[model])


def test_the_consistency_of_a_tile_is_the_mean_over_the_draws_that_say_something():
    scores = random_scores((3, 4, 50))
    found = scores.consistency("nhd", repeats=2)
    values = nhd(scores.statistics["n_union"], scores.statistics["n_disagree"])
    assert found.shape == (3, 2, 50)
    assert np.isnan(found).any()
    for model, perturbation, tile in np.ndindex(3, 2, 50):
        draws = [2 * perturbation, 2 * perturbation + 1]
        counted = [d for d in draws if scores.scored[model, d, tile]]
        known = [v for d in counted if not np.isnan(v := values[model, d, tile])]
        want = np.mean(known) if known else np.nan
        np.testing.assert_equal(found[model, perturbation, tile], want)


def test_no_tile_has_no_consistency():
    assert unscored((2, 6, 0), "absent").consistency("ei", repeats=3).shape == (2, 2, 0)


def test_joined_parts_are_all_tiles_in_order():
    parts = [random_scores((2, 3, n), seed=n) for n in (1, 4, 2)]
    whole = joined(parts)
    assert whole.status.shape == (2, 3, 7)
    np.testing.assert_array_equal(whole.status[..., 1:5], parts[1].status)
    sums = whole.statistics["sum_ei"][..., 5:]
    np.testing.assert_array_equal(sums, parts[2].statistics["sum_ei"])
