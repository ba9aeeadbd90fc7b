"""The transfer score: who judges whom, from which bank size on, and when no model fits."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from cte_dask.consistency.degenerate import FLOODS
from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.consistency.vote_patterns import no_votes
from cte_dask.engine.anytime import BlockNumbers
from cte_dask.engine.racing.decision import Decision
from cte_dask.engine.racing.goal import Goal
from cte_dask.ranking.document import contradiction
from cte_dask.ranking.frozen import PANEL, FrozenTransfer
from cte_dask.ranking.rank import rank
from cte_dask.ranking.transfer import TRUSTED_F1
from cte_dask.results.block_codec import encoded_votes
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.defaults import WITNESSES
from tests.simulated_votes import simulated, tables_of

GOOD = [(0.95, 0.02), (0.9, 0.03), (0.85, 0.02), (0.8, 0.05), (0.75, 0.04), (0.5, 0.2)]


def dataset(votes, consistency, *, perturbations=("dropout:0.2",), rule="transfer", voted=None):
    """Tile scores of models by their votes (model, tile, voxel) and consistencies."""
    models, tiles, voxels = votes.shape
    values = np.broadcast_to(
        np.asarray(consistency, float)[:, None, None], (models, len(perturbations), tiles)
    ).copy()
    foreground = np.broadcast_to(votes.sum(axis=2)[:, None], values.shape).astype(float)
    values[foreground == 0] = np.nan
    dims = ("model", "perturbation", "tile")
    tables = tables_of(votes, voted)
    return xr.Dataset(
        {
            "nhd": (dims, values),
            "n_reference": (dims, foreground),
            "n_voxels": (dims, np.full(values.shape, float(voxels))),
            "n_union": (dims, foreground),
            "status": (dims, np.full(values.shape, STATUS["scored"], np.int8)),
            "votes": (("tile", "vote"), encoded_votes(tables)),
        },
        coords={
            "model": [f"m{i}" for i in range(models)],
            "perturbation": list(perturbations),
            "block": ("tile", np.arange(tiles)),
            **{a: ("tile", np.arange(tiles) * (a == "x") * 32) for a in "zyx"},
        },
        attrs={
            "primary": f"nhd@{perturbations[0]}",
            "rule": rule,
            "metrics": ["nhd"],
            "seed": 0,
        },
    )


def names(ranking):
    return [m.name for m in ranking.models]


def test_the_score_is_estimated_f1_times_consistency():
    _, votes = simulated(np.random.default_rng(0), GOOD)
    consistency = [0.9, 0.95, 0.8, 0.9, 0.9, 0.99]
    ranking = rank(dataset(votes, consistency))
    assert ranking.primary == "transfer"
    for model in ranking.models:
        verdict = model.verdict
        product = verdict.estimated_f1.value * verdict.consistency.value
        assert verdict.transfer.value == pytest.approx(product)
        assert verdict.transfer.low <= verdict.transfer.value <= verdict.transfer.high
        assert verdict.consistency.value == consistency[int(model.name[1])]
    assert names(ranking)[-1] == "m5", "consistent and wrong"
    scores = [m.verdict.transfer.value for m in ranking.models]
    assert scores == sorted(scores, reverse=True)
    assert not ranking.warning


def test_estimates_are_near_the_truth():
    truth, votes = simulated(np.random.default_rng(1), GOOD)
    ranking = rank(dataset(votes, [0.9] * 6))
    true = 2 * (votes & truth).sum(axis=2) / (votes.sum(axis=2) + truth.sum(axis=1))
    for model in ranking.models:
        own = np.median(true[int(model.name[1])])
        assert model.verdict.estimated_f1.value == pytest.approx(own, abs=0.05)


@pytest.mark.parametrize(("models", "primary"), [(4, "cte"), (5, "transfer")])
def test_a_small_bank_ranks_by_consistency(models, primary):
    assert WITNESSES == 5
    _, votes = simulated(np.random.default_rng(2), GOOD[:models])
    consistency = list(np.linspace(0.5, 0.9, models))
    ranking = rank(dataset(votes, consistency))
    assert ranking.primary == primary
    if primary == "cte":
        assert names(ranking) == ["m3", "m2", "m1", "m0"]
        assert not ranking.warning, "nothing is known of how good they are"
        assert all(m.verdict.transfer == m.verdict.consistency for m in ranking.models)


def test_copies_and_models_that_predict_nothing_make_no_bank_larger():
    _, votes = simulated(np.random.default_rng(3), GOOD[:4])
    empty = np.zeros_like(votes[:1])
    everything = np.ones_like(votes[:1])
    ranking = rank(dataset(np.concatenate([votes, votes[:2], empty, everything]), [0.9] * 8))
    assert ranking.primary == "cte"
    assert ranking.bank.usable == 4
    assert set(names(ranking)[-2:]) == {"m6", "m7"}


def test_one_score_ranks_as_in_the_paper_where_it_is_asked_for():
    _, votes = simulated(np.random.default_rng(4), GOOD)
    consistency = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    ranking = rank(dataset(votes, consistency, rule="consistency"))
    assert ranking.primary == "nhd@dropout:0.2"
    assert names(ranking) == ["m5", "m4", "m3", "m2", "m1", "m0"]
    assert ranking.models[-1].verdict.estimated_f1.value > 0.8, "known all the same"
    assert names(rank(dataset(votes, consistency, rule="consistency"), rule="transfer"))[0] != "m5"


def test_consistency_is_the_mean_over_perturbations_that_every_model_has():
    _, votes = simulated(np.random.default_rng(5), GOOD[:3])
    data = dataset(votes, [0.8, 0.8, 0.8], perturbations=("mirror", "zoom:0.8", "dropout:0.2"))
    data.nhd[0, 1] = 0.4
    data.nhd[1, 2] = 0.1
    data.status[2, 2] = STATUS["unsupported"]
    by_name = {m.name: m.verdict.consistency.value for m in rank(data).models}
    assert by_name == pytest.approx({"m0": 0.6, "m1": 0.8, "m2": 0.8})


def test_where_all_models_fail_none_is_trusted():
    rng = np.random.default_rng(6)
    _, votes = simulated(rng, [(0.4, 0.2)] * 6)
    ranking = rank(dataset(votes, [0.9] * 6))
    assert max(m.verdict.estimated_f1.value for m in ranking.models) < TRUSTED_F1
    assert ranking.warning
    entry = ranking.bank.to_dict()
    assert entry["trusted"] is False
    assert entry["warning"] == ranking.warning
    json.dumps([entry, [m.to_dict() for m in ranking.models]], allow_nan=False)


def test_without_votes_consistency_ranks():
    _, votes = simulated(np.random.default_rng(7), GOOD)
    data = dataset(votes, [0.9] * 6)
    data["votes"] = ("tile", "vote"), encoded_votes(no_votes(data.sizes["tile"], 6))
    ranking = rank(data)
    assert ranking.primary == "cte"
    assert math.isnan(ranking.models[0].verdict.estimated_f1.value)


def test_objects_of_consistent_models_witness_those_of_others():
    _, votes = simulated(np.random.default_rng(8), GOOD)
    data = dataset(votes, [0.9, 0.9, 0.9, 0.9, 0.9, 0.1])
    tiles = data.sizes["tile"]
    quality = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.2])
    rows = [np.full(tiles, min(quality[i], quality[j])) for i, j in pairs_of(6)]
    data["precision"] = ("pair", "tile"), np.array(rows)
    ranking = rank(data)
    assert names(ranking) == ["m0", "m1", "m2", "m3", "m4", "m5"]
    weights = np.array([0.9, 0.9, 0.9, 0.9, 0.1]) ** 4
    want = (weights * [0.8, 0.7, 0.6, 0.2, 0.2]).sum() / weights.sum()
    first = ranking.models[0].verdict
    assert first.precision.value == pytest.approx(want)
    assert first.transfer.value == pytest.approx(want * 0.9)


def blocks_of(votes, consistency, size):
    for low in range(0, votes.shape[1], size):
        part = votes[:, low : low + size]
        values = np.broadcast_to(np.asarray(consistency)[:, None], part.shape[:2]).copy()
        yield BlockNumbers(values, tables_of(part))


def test_a_frozen_fit_judges_later_tiles_as_the_whole_does():
    rates = [*GOOD, (0.7, 0.03), (0.6, 0.1), (0.65, 0.02)]
    _, votes = simulated(np.random.default_rng(9), rates, tiles=60)
    consistency = [0.9] * 9
    pilot, *later = blocks_of(votes, consistency, 20)
    frozen = FrozenTransfer(9)
    frozen.learn([pilot], np.ones(9, bool))
    assert frozen.panel.sum() == PANEL
    assert frozen.panel[:3].all(), "the best tell most"
    values = np.concatenate([frozen.values(b) for b in later], axis=1)
    whole = {m.name: m.verdict.transfer.value for m in rank(dataset(votes, consistency)).models}
    for model, row in enumerate(values):
        assert np.median(row) == pytest.approx(whole[f"m{model}"], abs=0.05)


def test_who_is_dropped_changes_no_number_of_those_who_race_on():
    rates = [*GOOD, (0.7, 0.03), (0.6, 0.1), (0.65, 0.02)]
    _, votes = simulated(np.random.default_rng(10), rates, tiles=30)
    pilot, later = blocks_of(votes, [0.9] * 9, 15)
    frozen = FrozenTransfer(9)
    frozen.learn([pilot], np.ones(9, bool))
    dropped = np.flatnonzero(~frozen.panel)[:2]
    without = BlockNumbers(later.consistency, later.votes.without(dropped.tolist()))
    racing = np.setdiff1d(np.arange(9), dropped)
    np.testing.assert_allclose(
        frozen.values(later)[racing], frozen.values(without)[racing], rtol=1e-12
    )


def test_a_small_bank_races_by_consistency():
    _, votes = simulated(np.random.default_rng(11), GOOD[:3])
    (pilot,) = blocks_of(votes, [0.9, 0.8, 0.7], 100)
    frozen = FrozenTransfer(3)
    frozen.learn([pilot], np.ones(3, bool))
    assert not frozen.panel.any()
    np.testing.assert_array_equal(frozen.values(pilot), pilot.consistency)


def test_models_within_the_error_of_the_estimates_are_called_as_good():
    rates = [(0.95, 0.01), (0.94, 0.01), (0.93, 0.02), (0.7, 0.1), (0.6, 0.1)]
    _, votes = simulated(np.random.default_rng(12), rates)
    ranking = rank(dataset(votes, [0.9] * 5))
    assert set(names(ranking)[:1]) | set(ranking.as_good) == {"m0", "m1", "m2"}
    assert not rank(dataset(votes, [0.9] * 5, rule="consistency")).as_good
    assert not rank(dataset(votes[:3], [0.9] * 3)).as_good, "nothing is estimated that ranks"


def test_a_bank_of_which_nothing_is_usable_is_ranked_all_the_same():
    votes = np.ones((2, 4, 50), bool)
    ranking = rank(dataset(votes, [1.0, 1.0]))
    assert ranking.as_good == ()
    assert all(m.degenerate for m in ranking.models)


def test_what_a_race_proved_and_the_last_fit_denies_is_told():
    _, votes = simulated(np.random.default_rng(13), GOOD)
    ranking = rank(dataset(votes, [0.9] * 6))
    first, second = names(ranking)[:2]
    decision = Decision(Goal(), 20, 500, "decided", (second,), (), (), {}, (), {})
    told = contradiction(ranking, decision)
    assert told is not None
    assert first in told
    assert contradiction(ranking, replace(decision, best=(first,))) is None
    assert contradiction(ranking, replace(decision, stopped="budget")) is None
    near = Decision(Goal(epsilon=0.5), 20, 500, "decided", (second,), (), (), {}, (), {})
    assert contradiction(ranking, near) is None, "within what does not matter"


def test_a_flagged_model_makes_no_bank_trusted():
    rng = np.random.default_rng(14)
    _, votes = simulated(rng, [(0.4, 0.2)] * 6, prior=0.6)
    everything = np.ones_like(votes[:1])
    ranking = rank(dataset(np.concatenate([votes, everything]), [0.9] * 7))
    flagged = ranking.models[-1]
    assert flagged.degenerate
    assert flagged.verdict.estimated_f1.value > ranking.bank.best_f1
    assert ranking.warning


def test_a_model_that_marks_far_more_than_the_others_see_is_ranked_last_in_a_small_bank_too():
    _, votes = simulated(np.random.default_rng(5), [*GOOD[:3], (0.99, 0.9)])
    ranking = rank(dataset(votes, [0.8, 0.8, 0.8, 0.99]))
    assert ranking.primary == "cte", "too small a bank for the transfer score"
    assert names(ranking)[-1] == "m3", "most consistent, and wrong"
    assert ranking.models[-1].flags == (FLOODS,)


def test_a_target_that_is_mostly_foreground_makes_no_model_suspect():
    _, votes = simulated(np.random.default_rng(6), GOOD[:4], prior=0.85)
    ranking = rank(dataset(votes, [0.8, 0.8, 0.8, 0.9]))
    assert [m.flags for m in ranking.models] == [()] * 4
