"""A few labels correct estimates: an error that all models share, the interval, small banks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.engine.racing.decision import Decision
from cte_dask.engine.racing.goal import Goal
from cte_dask.ranking.document import contradiction
from cte_dask.ranking.labels import label_failures, with_labels
from cte_dask.ranking.rank import rank
from cte_dask.results.score_table import ScoreTable
from tests.ranking.test_transfer import dataset, names
from tests.simulated_votes import simulated

TILES = 20


def scores(votes, consistency=None):
    data = dataset(votes, [0.9] * len(votes) if consistency is None else consistency)
    return data.assign_coords(tile=np.arange(data.sizes["tile"]))


def true_f1(votes, truth):
    return 2 * (votes & truth).sum(axis=2) / (votes.sum(axis=2) + truth.sum(axis=1))


def entries(true, tiles, precision=None):
    return [
        {
            "tile": int(t),
            "f1": {f"m{m}": float(v) for m, v in enumerate(true[:, t])},
            "precision": {}
            if precision is None
            else {f"m{m}": float(v) for m, v in enumerate(precision[:, t])},
            "sha256": "a",
            "failures": {},
        }
        for t in tiles
    ]


@pytest.fixture(scope="module")
def shared_error():
    """Five of six models mark the whole cell where the labels are its nucleus; one does not."""
    rng = np.random.default_rng(0)
    cell = rng.random((TILES, 400)) < 0.5
    nucleus = cell & (rng.random(cell.shape) < 0.4)
    marks = [cell] * 5 + [nucleus]
    noise = np.linspace(0.02, 0.06, 6)
    votes = np.array([m ^ (rng.random(m.shape) < n) for m, n in zip(marks, noise, strict=True)])
    return votes, true_f1(votes, nucleus)


def test_labels_move_an_error_that_all_models_share(shared_error):
    votes, true = shared_error
    data = scores(votes)
    assert names(rank(data))[-1] == "m5", "nobody can know without labels"
    ranking = rank(with_labels(data, entries(true, [2, 7, 11])))
    assert ranking.primary == "labelled_f1"
    assert names(ranking)[0] == "m5"
    first = ranking.models[0].verdict
    assert first.estimated_f1.value == pytest.approx(np.median(true[5]), abs=0.05)
    assert first.transfer == first.estimated_f1, "consistency is no witness where truth is known"
    assert first.uncorrected_f1 < 0.7
    assert first.estimated_f1.low <= first.estimated_f1.value <= first.estimated_f1.high
    assert ranking.models[1].beaten > 0.99
    assert not ranking.as_good
    assert not ranking.warning


def test_a_labelled_tile_has_its_true_number(shared_error):
    votes, true = shared_error
    bank = rank(with_labels(scores(votes), entries(true, [2, 7]))).bank
    np.testing.assert_allclose(bank.tiles["labelled_f1"][:, [2, 7]], true[:, [2, 7]])
    assert bank.labelled == 2
    assert bank.to_dict()["labelled_tiles"] == 2


def test_labels_say_that_none_fits_where_estimates_did_not(shared_error):
    votes, true = shared_error
    data = scores(votes[:5])
    assert not rank(data).warning
    ranking = rank(with_labels(data, entries(true[:5], [2, 7, 11])))
    assert "only" in ranking.warning
    assert ranking.bank.to_dict()["trusted"] is False


def test_the_median_is_corrected_by_the_mean_difference(shared_error):
    votes, true = shared_error
    plain = {m.name: m.verdict for m in rank(scores(votes)).models}
    tiles = rank(scores(votes)).bank.tiles["estimated_f1"]
    ranking = rank(with_labels(scores(votes), entries(true, [1, 4, 9])))
    for model in ranking.models:
        row = int(model.name[1])
        off = (true[row] - tiles[row])[[1, 4, 9]].mean()
        want = np.clip(plain[model.name].estimated_f1.value + off, 0, 1)
        assert model.verdict.estimated_f1.value == pytest.approx(want)
        assert model.verdict.uncorrected_f1 == plain[model.name].estimated_f1.value
    json.dumps([m.to_dict() for m in ranking.models], allow_nan=False)


def test_a_bank_too_small_to_judge_itself_is_ranked_by_what_was_measured():
    truth, votes = simulated(np.random.default_rng(1), [(0.7, 0.1), (0.95, 0.02)], tiles=TILES)
    true = true_f1(votes, truth)
    data = scores(votes, [0.95, 0.5])
    assert names(rank(data)) == ["m0", "m1"]
    ranking = rank(with_labels(data, entries(true, [0, 3, 5])))
    assert names(ranking) == ["m1", "m0"]
    assert ranking.models[0].verdict.estimated_f1.value == pytest.approx(true[1, [0, 3, 5]].mean())


def test_labels_rank_where_one_score_would_have(shared_error):
    votes, true = shared_error
    data = with_labels(scores(votes), entries(true, [2, 7, 11]))
    data.attrs["rule"] = "consistency"
    assert rank(data).primary == "labelled_f1"
    assert rank(data, rule="consistency").primary == "nhd@dropout:0.2"


def test_a_tile_of_a_block_that_was_not_read_counts_where_nothing_else_does(shared_error):
    votes, true = shared_error
    data = scores(votes[:, :10])
    outside = rank(with_labels(data, entries(true, [12, 15])))
    assert names(outside)[0] == "m5"
    value = outside.models[0].verdict.estimated_f1.value
    assert value == pytest.approx(true[5, [12, 15]].mean())
    both = rank(with_labels(data, entries(true, [3, 12])))
    tiles = rank(data).bank.tiles["estimated_f1"]
    want = np.median(tiles[5]) + true[5, 3] - tiles[5, 3]
    assert both.models[0].verdict.estimated_f1.value == pytest.approx(min(want, 1))


def test_a_model_that_could_not_be_measured_keeps_its_estimate(shared_error):
    votes, true = shared_error
    measured = entries(true, [2, 7])
    for entry in measured:
        del entry["f1"]["m3"]
        entry["failures"] = {"m3": "out of memory"}
    ranking = rank(with_labels(scores(votes), measured))
    verdict = next(m.verdict for m in ranking.models if m.name == "m3")
    assert verdict.estimated_f1.value == verdict.uncorrected_f1
    assert label_failures(measured, []) == {t: {"m3": "out of memory"} for t in ("2", "7")}


def test_instances_are_ranked_by_corrected_precision():
    truth, votes = simulated(np.random.default_rng(2), [(0.9, 0.03)] * 6, tiles=TILES)
    data = scores(votes, np.linspace(0.95, 0.7, 6))
    data["precision"] = ("pair", "tile"), np.full((len(pairs_of(6)), TILES), 0.6)
    precision = np.repeat(np.linspace(0.1, 0.6, 6)[:, None], TILES, axis=1)
    measured = entries(true_f1(votes, truth), [1, 5, 8], precision)
    ranking = rank(with_labels(data, measured))
    assert ranking.primary == "labelled_precision"
    assert names(ranking) == [f"m{i}" for i in (5, 4, 3, 2, 1, 0)]
    assert ranking.models[0].verdict.precision.value == pytest.approx(0.6)
    assert ranking.models[0].verdict.estimated_f1.value == pytest.approx(
        np.median(true_f1(votes, truth)[5]), abs=0.05
    )


def test_what_labels_say_against_a_race_is_told(shared_error):
    votes, true = shared_error
    ranking = rank(with_labels(scores(votes), entries(true, [2, 7, 11])))
    decision = Decision(Goal(), 20, 500, "decided", ("m0",), (), (), {}, (), {})
    told = contradiction(ranking, decision)
    assert told is not None
    assert "labelled tiles, m5 is ahead" in told


def test_without_labels_nothing_changes(shared_error):
    votes, _ = shared_error
    data = scores(votes)
    data = ScoreTable.of(data)
    assert with_labels(data, []) is data
    assert rank(data).primary == "transfer"
    assert "uncorrected" not in rank(data).models[0].to_dict()["estimated_f1"]
