"""The combined rank: the rule by hand, families counted once, flagged models last."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cte_dask.consistency.score_names import families_of
from cte_dask.ranking.combination import combine_scores, percentiles


def tiles(*scores: float, count: int = 6) -> np.ndarray:
    """Tile values of models whose tiles are all alike, (model, tile)."""
    return np.repeat(np.array(scores, float)[:, None], count, axis=1)


def combined(values, *, degenerate=None, cell=None, **options):
    models, count = next(iter(values.values())).shape
    return combine_scores(
        [f"m{i}" for i in range(models)],
        values,
        degenerate=np.zeros(models, bool) if degenerate is None else np.array(degenerate),
        cell=np.arange(count) if cell is None else cell,
        **{"resamples": 50, **options},
    )


def scores(found) -> list[float]:
    return [found.models[f"m{i}"].score for i in range(len(found.models))]


def test_percentiles_are_the_fraction_beaten():
    np.testing.assert_array_equal(percentiles(np.array([0.3, 0.9, 0.1, 0.5])), [1 / 3, 1, 0, 2 / 3])
    np.testing.assert_array_equal(percentiles(np.array([0.5, 0.5, 0.1])), [0.75, 0.75, 0])
    np.testing.assert_array_equal(percentiles(np.array([np.nan, np.nan, 0.0])), [0.25, 0.25, 1])
    np.testing.assert_array_equal(percentiles(np.array([0.2])), [1])


def test_the_combined_score_is_the_mean_over_families_by_hand():
    found = combined(
        {
            "nhd@rotate": tiles(0.9, 0.5, 0.1),  # 1, 1/2, 0
            "nhd@gaussian:0.1": tiles(0.2, 0.8, 0.5),  # 0, 1, 1/2
            "agreement@none": tiles(0.7, 0.6, 0.6),  # 1, 1/4, 1/4
        }
    )
    np.testing.assert_allclose(scores(found), [2 / 3, 7 / 12, 1 / 4])
    assert list(found.models) == ["m0", "m1", "m2"]
    assert [m.rank for m in found.models.values()] == [1, 2, 3]
    assert found.models["m1"].families == {"rotate": 0.5, "gaussian": 1.0, "agreement": 0.25}


def test_a_family_counts_once_with_however_many_strengths_and_metrics():
    found = combined(
        {
            "nhd@gaussian:0.1": tiles(0.9, 0.5, 0.1),  # 1, 1/2, 0
            "nhd@gaussian:0.2": tiles(0.9, 0.1, 0.5),  # 1, 0, 1/2
            "ei@gaussian:0.1": tiles(0.5, 0.9, 0.1),  # 1/2, 1, 0
            "ei@gaussian:0.2": tiles(0.5, 0.9, 0.1),  # 1/2, 1, 0
            "nhd@mirror": tiles(0.1, 0.5, 0.9),  # 0, 1/2, 1
        }
    )
    gaussian = np.array([3 / 4, 5 / 8, 1 / 8])
    np.testing.assert_allclose(scores(found), (gaussian + np.array([0, 0.5, 1])) / 2)
    assert found.families == {
        "gaussian": (
            "nhd@gaussian:0.1",
            "nhd@gaussian:0.2",
            "ei@gaussian:0.1",
            "ei@gaussian:0.2",
        ),
        "mirror": ("nhd@mirror",),
    }
    assert families_of(["nhd@mirror", "ei@mirror"]) == {"mirror": ("nhd@mirror", "ei@mirror")}


def test_flagged_models_stay_below_and_move_no_other():
    values = {"nhd@rotate": tiles(0.6, 1.0, 0.4, 1.0), "nhd@mirror": tiles(0.5, 1.0, 0.7, 0.9)}
    found = combined(values, degenerate=[False, True, False, True])
    assert list(found.models)[2:] == ["m1", "m3"]
    assert [m.rank for m in found.models.values()] == [1, 1, 3, 4]
    alone = combined({name: v[[0, 2]] for name, v in values.items()})
    assert [found.models[n].score for n in ("m0", "m2")] == scores(alone)


def test_a_model_without_a_value_is_below_all_that_have_one():
    values = {"nhd@rotate": tiles(0.1, math.nan, 0.2), "nhd@mirror": tiles(0.1, 0.9, 0.2)}
    found = combined(values)
    assert found.models["m1"].families == {"rotate": 0.0, "mirror": 1.0}


def test_only_scores_that_every_model_supports_count():
    values = {"nhd@dropout:0.2": tiles(0.9, math.nan), "nhd@rotate": tiles(0.1, 0.2),
              "nhd@mirror": tiles(0.1, 0.2)}  # fmt: skip
    found = combined(values, supported={"nhd@dropout:0.2": np.array([True, False])})
    assert found.left_out == ("nhd@dropout:0.2",)
    assert set(found.families) == {"rotate", "mirror"}
    with pytest.raises(ValueError, match="is supported by every model"):
        combined(
            {"nhd@dropout:0.2": tiles(0.9, math.nan)},
            supported={"nhd@dropout:0.2": np.array([True, False])},
        )


def test_families_that_disagree_are_warned_of():
    same = combined({"nhd@rotate": tiles(0.9, 0.5, 0.1), "nhd@mirror": tiles(0.8, 0.4, 0.2)})
    assert same.kendall_w == same.correlation == 1
    assert same.warning == ""
    unlike = combined({"nhd@rotate": tiles(0.9, 0.5, 0.1), "nhd@mirror": tiles(0.2, 0.4, 0.8)})
    assert unlike.kendall_w == 0
    assert unlike.correlation == -1
    assert "disagree" in unlike.warning
    one = combined({"nhd@rotate": tiles(0.9, 0.5, 0.1)})
    assert "nothing is combined" in one.warning
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False))["kendall_w"] is None


def test_intervals_tell_how_well_the_order_is_known():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (2, 3, 64))
    level = np.array([0.9, 0.5, 0.49])[:, None]
    values = {"nhd@rotate": level + noise[0], "nhd@mirror": level + noise[1]}
    found = combined(values, cell=np.arange(64) // 2, resamples=300)
    first, *others = found.models.values()
    assert (first.rank_low, first.rank_high, first.low, first.high) == (1, 1, 1, 1)
    for model in others:
        assert (model.rank_low, model.rank_high) == (2, 3)
        assert model.low <= model.score <= model.high
        assert model.low < model.high
    assert combined(values, cell=np.arange(64) // 2, resamples=300) == found


def test_the_interval_draws_whole_cells():
    """Of two cells that contradict each other half of the resamples hold both."""
    row = np.r_[np.full(8, 0.9), np.full(8, 0.1)]
    values = {f"nhd@{kind}": np.stack([row, row[::-1]]) for kind in ("rotate", "mirror")}
    found = combined(values, cell=np.repeat([0, 1], 8), resamples=400)
    assert all((m.low, m.high) == (0, 1) for m in found.models.values())
    assert all((m.rank, m.rank_low, m.rank_high) == (1, 1, 2) for m in found.models.values())
