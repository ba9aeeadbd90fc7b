"""Ranking: medians, intervals, order, and the models that are consistent for the wrong reason."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray as xr
from golden import cases

from cte_dask.ranking.notes import ONE_REGION
from cte_dask.ranking.rank import rank
from cte_dask.scoring.block_scores import STATUS


def dataset(scores: dict[str, list[float]], *, foreground: dict[str, float] | None = None):
    """Tile scores of models on one row of tiles, under one perturbation."""
    names, tiles = list(scores), len(next(iter(scores.values())))
    values = np.array([scores[n] for n in names], float)[:, None]
    fraction = np.array([(foreground or {}).get(n, 0.3) for n in names])[:, None, None]
    shape = values.shape
    dims = ("model", "perturbation", "tile")
    return xr.Dataset(
        {
            "nhd": (dims, values),
            "n_reference": (dims, np.broadcast_to(fraction * 100, shape)),
            "n_voxels": (dims, np.full(shape, 100.0)),
            "n_union": (dims, np.full(shape, 50.0)),
            "status": (dims, np.full(shape, float(STATUS["scored"]))),
        },
        coords={
            "model": names,
            "perturbation": ["dropout:0.2"],
            **{a: ("tile", np.arange(tiles) * (a == "x") * 32) for a in "zyx"},
        },
        attrs={"primary": "nhd@dropout:0.2", "metrics": ["nhd"], "seed": 0},
    )


def order(ranking) -> list[str]:
    return [m.name for m in ranking.models]


def test_models_are_ordered_by_their_median():
    ranking = rank(dataset({"a": [0.1, 0.9, 0.2], "b": [0.5, 0.6, 0.7], "c": [0.3, 0.3, 1.0]}))
    assert order(ranking) == ["b", "c", "a"]
    assert [m.rank for m in ranking.models] == [1, 2, 3]
    assert ranking.models[0].scores["nhd@dropout:0.2"].cte == 0.6


@pytest.mark.parametrize("case", cases("AGG"))
def test_golden_median_leaves_nan_tiles_out(case):
    if "per_patch" not in case["inputs"]:
        return  # the other cases of the family are checked where tiles are counted
    tiles = np.array(case["inputs"]["per_patch"], float)
    score = rank(dataset({"m": tiles})).models[0].scores["nhd@dropout:0.2"]
    assert score.cte == pytest.approx(case["independent"]["value"], abs=case["tolerance"])
    assert score.nan_fraction == pytest.approx(np.isnan(tiles).mean())
    assert score.n_tiles == len(tiles)


def test_equal_scores_share_a_rank():
    ranking = rank(dataset({"a": [0.5], "b": [0.7], "c": [0.7], "d": [0.1]}))
    assert {m.name: m.rank for m in ranking.models} == {"b": 1, "c": 1, "a": 3, "d": 4}


def test_a_model_that_predicts_nothing_ranks_below_every_other():
    silent = [1.0] + [math.nan] * 19
    ranking = rank(dataset({"silent": silent, "poor": [0.1] * 20}))
    assert order(ranking) == ["poor", "silent"]
    assert ranking.models[1].flags == ("predicts nothing",)


def test_a_model_that_predicts_everything_ranks_below_every_other():
    scores = {"full": [1.0] * 4, "poor": [0.1] * 4}
    ranking = rank(dataset(scores, foreground={"full": 0.97}))
    assert order(ranking) == ["poor", "full"]
    assert ranking.models[1].flags == ("predicts everything",)


def test_a_model_with_hardly_any_foreground_is_pointed_out_but_keeps_its_rank():
    ranking = rank(dataset({"few": [0.9] * 4, "poor": [0.1] * 4}, foreground={"few": 0.0001}))
    assert order(ranking) == ["few", "poor"]
    assert ranking.models[0].flags == ("predicts very little",)


def test_excluded_models_come_last_with_their_reason():
    data = dataset({"a": [0.5]})
    data.attrs["excluded"] = {"broken": "no weights"}
    last = rank(data).models[-1]
    assert (last.name, last.rank, last.excluded) == ("broken", None, "no weights")


def test_a_model_without_any_score_is_ranked_last_not_lost():
    ranking = rank(dataset({"nan": [math.nan, math.nan], "poor": [0.01, 0.02]}))
    assert order(ranking) == ["poor", "nan"]
    json.dumps([m.to_dict() for m in ranking.models], allow_nan=False)


def test_of_one_region_nothing_is_said_but_the_score():
    one = rank(dataset({"a": [0.5], "b": [0.7]})).models
    assert [m.name for m in one] == ["b", "a"]
    for model in one:
        score = model.scores["nhd@dropout:0.2"]
        assert all(map(math.isnan, (score.low, score.high, model.first, model.beaten)))
        assert model.note == ONE_REGION
    two = rank(dataset({"a": [0.5, 0.5], "b": [0.7, math.nan], "c": [0.6, 0.6]})).models
    assert [(m.name, m.note) for m in two] == [("b", ONE_REGION), ("c", ""), ("a", "")]
    assert all(math.isnan(m.beaten) for m in two), "nobody knows how far the first is ahead"


def test_a_model_ahead_everywhere_is_first_always():
    values = np.random.default_rng(0).uniform(0.2, 0.5, (2, 60))
    first, second = rank(dataset({"a": values[0], "b": values[1] + 0.4})).models
    assert (first.name, first.first, second.first) == ("b", 1, 0)
    assert second.beaten == 1
    assert math.isnan(first.beaten)


def test_regions_that_are_hard_for_all_do_not_hide_a_paired_difference():
    hard = np.repeat(np.random.default_rng(1).uniform(0.3, 0.9, 60 // 4), 4)
    first, second = rank(dataset({"a": hard + 0.02, "b": hard})).models
    assert first.scores["nhd@dropout:0.2"].low < second.scores["nhd@dropout:0.2"].high
    assert second.beaten == 1, "though their intervals overlap"


def test_equal_models_are_even():
    values = np.random.default_rng(2).random(60)
    first, second = rank(dataset({"a": values, "b": values})).models
    assert (first.first, second.first, second.beaten) == (0.5, 0.5, 0.5)
