"""Scores against performance, on tile numbers made by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from cte_dask.evaluation.comparison import TileMeasures, evaluation_of
from cte_dask.evaluation.rank_correlation import rank_correlation
from cte_dask.evaluation.result import performance_of
from cte_dask.ranking.rank import ModelRank, Ranking, Score
from cte_dask.ranking.transfer import BankVerdict
from cte_dask.report.evaluation import evaluation_dict

NAMES = ("a", "b", "c", "d")
PRIMARY = "nhd@gaussian:0.1"
NAN = math.nan


def dataset(nhd: list[list[float]]) -> xr.Dataset:
    values = np.array(nhd)[:, None, :]
    dims = ("model", "perturbation", "tile")
    tiles = values.shape[-1]
    return xr.Dataset(
        {"nhd": (dims, values), "status": (dims, np.ones_like(values))},
        coords={
            "model": list(NAMES),
            "perturbation": ["gaussian:0.1"],
            "tile": np.arange(tiles),
            **{axis: ("tile", np.arange(tiles)) for axis in "zyx"},
        },
        attrs={"primary": "nhd@gaussian:0.1", "metrics": ["nhd"]},
    )


def ranking(flags: dict[str, str] | None = None) -> Ranking:
    score = {"nhd@gaussian:0.1": Score(0, 0, 0, 0, 0)}
    models = [
        ModelRank(n, i + 1, (flags[n],) if flags and n in flags else (), scores=score)
        for i, n in enumerate(NAMES)
    ]
    bank = BankVerdict({}, "cte", 4, math.nan, math.nan, np.eye(4), {}, np.empty((4, 0)), 0)
    return Ranking(PRIMARY, PRIMARY, (*models, ModelRank("x", None, excluded="broken")), bank)


def measures(f1, entropy=None, labelled=(9, 9, 9, 0), ccfv=None) -> TileMeasures:
    values = np.full((4, 4, 4), NAN)
    values[:, 0] = f1
    values[:, 2] = np.zeros((4, 4)) if entropy is None else entropy
    values[:, 3] = 1.0
    return TileMeasures(values, np.array(labelled), np.arange(4), ccfv or {})


F1 = [[0.9] * 4, [0.7] * 4, [0.5] * 4, [0.3] * 4]
NHD = [[0.9, 0.9, 0.9, 0.9], [0.8, 0.8, 0.8, 0.8], [0.7, 0.7, 0.7, 0.7], [0.6, 0.6, 0.6, 0.6]]


def test_performance_is_the_median_over_labelled_tiles_only():
    f1 = [[0.2, 0.4, 0.9, 0.0], *F1[1:]]  # the last tile has no labels: a false positive there
    found = evaluation_of(dataset(NHD), ranking(), measures(f1))
    assert found.models[0].performance == {"f1": 0.4}
    assert (found.models[0].n_labelled, found.n_labelled, found.n_tiles) == (3, 3, 4)


def test_scores_are_medians_over_own_and_over_common_tiles():
    nhd = [[0.1, 0.2, 0.9, NAN], [0.5, NAN, 0.6, 0.7], NHD[2], NHD[3]]
    found = evaluation_of(dataset(nhd), ranking(), measures(F1))
    name = "nhd@gaussian:0.1"
    assert [m.scores[name] for m in found.models[:2]] == pytest.approx([0.2, 0.6])
    assert [m.common[name] for m in found.models[:2]] == pytest.approx([0.5, 0.55])  # tiles 0, 2
    assert found.score_correlation(name).n_common == 2


def test_a_model_that_predicts_nothing_does_not_take_the_common_tiles_away():
    nhd = [*NHD[:3], [NAN, NAN, NAN, 1.0]]
    plain = evaluation_of(dataset(nhd), ranking(), measures(F1))
    assert plain.score_correlation("nhd@gaussian:0.1").n_common == 1
    flagged = evaluation_of(dataset(nhd), ranking({"d": "predicts nothing"}), measures(F1))
    assert flagged.score_correlation("nhd@gaussian:0.1").n_common == 4


def test_agreement_is_perfect_where_the_orders_are_equal():
    found = evaluation_of(dataset(NHD), ranking(), measures(F1)).score_correlation(
        "nhd@gaussian:0.1"
    )
    assert (found.correlation.kendall, found.low, found.high) == (1, 1, 1)
    assert found.correlation.n == 4
    assert found.correlation.p_kendall is None  # below five models
    assert found.common is not None
    assert found.common.kendall == 1


def test_flagged_models_come_last_in_a_correlation_of_its_own():
    nhd = [*NHD[:3], [0.99] * 4]  # the worst model fills the tile
    found = evaluation_of(dataset(nhd), ranking({"d": "predicts everything"}), measures(F1))
    correlation = found.score_correlation("nhd@gaussian:0.1")
    assert correlation.correlation.kendall == pytest.approx(0)
    assert correlation.flagged_last.kendall == 1


def test_low_entropy_ranks_first():
    entropy = np.array([[0.1] * 4, [0.2] * 4, [0.3] * 4, [0.4] * 4])
    found = evaluation_of(dataset(NHD), ranking(), measures(F1, entropy))
    assert found.models[0].scores["entropy"] == pytest.approx(-0.1)
    assert found.score_correlation("entropy").correlation.kendall == 1
    assert math.isnan(found.score_correlation("confidence").correlation.kendall)  # all tied


def test_ccfv_has_no_interval_and_may_lack_models():
    ccfv = {"a": 2.0, "b": 1.0, "c": 3.0}
    found = evaluation_of(dataset(NHD), ranking(), measures(F1, ccfv=ccfv)).score_correlation(
        "ccfv"
    )
    assert found.correlation.n == 3
    assert found.correlation.kendall == pytest.approx(-1 / 3)
    assert math.isnan(found.low)
    assert found.common is None


def test_a_model_that_failed_is_left_out_with_its_cause():
    found = evaluation_of(dataset(NHD), ranking(), measures(F1), causes={"b": "died"})
    assert found.models[1].cause == "died"
    assert found.score_correlation("nhd@gaussian:0.1").correlation.n == 3
    with pytest.raises(ValueError, match="no model is left to compare: died"):
        evaluation_of(dataset(NHD), ranking(), measures(F1), causes=dict.fromkeys(NAMES, "died"))


def test_a_model_at_home_is_evaluated_but_not_compared():
    nhd = [[0.5, NAN, 0.5, 0.5], *NHD[1:]]  # the best model, and a tile that it alone lacks
    left = evaluation_of(dataset(nhd), ranking(), measures(F1), left_out={"a": "at home"})
    correlation = left.score_correlation("nhd@gaussian:0.1")
    assert (correlation.correlation.n, correlation.correlation.kendall) == (3, 1)
    assert correlation.n_common == 4
    assert left.models[0].performance == {"f1": 0.9}
    assert left.models[0].left_out == "at home"


def test_json_has_no_nan_and_says_which_performance_a_score_is_about():
    data = evaluation_dict(evaluation_of(dataset(NHD), ranking(), measures(F1)))
    assert data["schema"] == "cte-evaluation/1"
    by_score = {a["score"]: a for a in data["agreement"]}
    assert by_score["confidence"]["kendall"] is None
    assert by_score["nhd@gaussian:0.1"]["natural"] is True
    assert data["models"][0]["scores"]["nhd@gaussian:0.1"] == {"own": 0.9, "common": 0.9}


def test_scores_that_are_all_the_same_are_json_too():
    """As V^Rand without borders is under a weak perturbation: five models and more have a p."""
    found = evaluation_of(dataset(NHD), ranking(), measures(F1))
    same = rank_correlation([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert np.isnan(same.p_kendall)
    correlations = [
        replace(a, correlation=same, flagged_last=same) for a in found.score_correlations
    ]
    data = evaluation_dict(replace(found, score_correlations=tuple(correlations)))
    told = json.loads(json.dumps(data, allow_nan=False))["agreement"][0]
    assert told["p_kendall"] is None
    assert told["flagged_last"] == {"kendall": None, "spearman": None, "p_kendall": None}


def test_instances_are_measured_by_map_and_foregrounds_by_f1():
    assert performance_of("vrand@dropout:0.2", ("f1", "map")) == "map"
    assert performance_of("vrand@dropout:0.2", ("f1",)) == "f1"
    assert performance_of("nhd@dropout:0.2", ("f1", "map")) == "f1"
    assert performance_of("ccfv", ("f1", "map")) == "f1"


def test_an_unknown_score_is_refused():
    found = evaluation_of(dataset(NHD), ranking(), measures(F1))
    with pytest.raises(ValueError, match=r"no agreement of 'nhd@blur:3'.*there are nhd@gaussian"):
        found.score_correlation("nhd@blur:3")


def test_tiles_are_drawn_for_score_and_performance_together():
    """Each tile orders the models as its F1 does: τ is 1 whatever is drawn."""
    scores = np.random.default_rng(0).random((4, 4))
    measured = measures(scores / 2, labelled=(9,) * 4)
    found = evaluation_of(dataset(scores.tolist()), ranking(), measured).score_correlation(PRIMARY)
    assert (found.low, found.high) == (1, 1)
    apart = measures(scores[:, ::-1], labelled=(9,) * 4)
    assert (
        evaluation_of(dataset(scores.tolist()), ranking(), apart).score_correlation(PRIMARY).low < 1
    )


def test_one_unit_gives_no_interval():
    measured = replace(measures(F1), units=np.zeros(4, np.int64))
    found = evaluation_of(dataset(NHD), ranking(), measured).score_correlation(PRIMARY)
    assert found.correlation.kendall == 1
    assert math.isnan(found.low)
    assert math.isnan(found.high)
