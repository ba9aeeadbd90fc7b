"""The noise of the truth: which pairs of models labelled tiles tell apart."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

PAPER = Path(__file__).resolve().parents[2] / "benchmarks" / "paper"


@pytest.fixture(scope="module")
def noise():
    sys.path.insert(0, str(PAPER))
    try:
        import reliability

        yield reliability
    finally:
        sys.path.remove(str(PAPER))


def table(places, noise, tiles=40):
    drawn = np.random.default_rng(0).normal(0, noise, (len(places), tiles))
    return np.asarray(places)[:, None] + drawn, np.arange(tiles)


def test_models_far_apart_are_told_apart_and_equal_ones_are_not(noise):
    values, unit = table([0.9, 0.9, 0.5], 0.05)
    assert noise.told_apart(values, unit) == [(0, 2, 1.0), (1, 2, 1.0)]
    assert noise.told_apart(values[::-1], unit) == [(0, 1, -1.0), (0, 2, -1.0)]


def test_tiles_of_one_group_count_once(noise):
    values, _ = table([0.9, 0.86], 0.1)
    grouped = np.repeat(np.arange(3), [20, 10, 10])
    assert len(noise.told_apart(values, grouped)) <= len(noise.told_apart(values, np.arange(40)))


def test_halves_agree_on_models_far_apart_and_not_on_equal_ones(noise):
    assert noise.half_tau(*table([0.9, 0.7, 0.5, 0.3], 0.05)) == 1.0
    assert abs(noise.half_tau(*table([0.5] * 30, 0.1))) < 0.2


def test_tau_over_pairs_by_hand(noise):
    pairs = [(0, 1, 1.0), (0, 2, 1.0), (1, 2, -1.0)]
    assert noise.pair_tau([3.0, 2.0, 1.0], pairs) == pytest.approx(1 / 3)
    assert noise.pair_tau([3.0, 3.0, -np.inf], pairs) == pytest.approx(0.0)
    assert noise.pair_tau([-np.inf, -np.inf, -np.inf], pairs) == 0.0
    assert noise.pair_tau([1.0], []) is None


def test_only_compared_models_and_labelled_tiles_count(noise):
    models = [
        {"name": n, "left_out": home, "scores": {"cte": {"own": v}}}
        for n, home, v in (("a", None, 0.9), ("home", "why", 0.1), ("b", None, 0.8))
    ]
    good, bad = np.full(8, 0.9), np.full(8, 0.5)
    labelled = np.tile([1, 1, 1, 1, 1, 1, 0, 0], 3)
    good[6:] = 0.0  # without labels: says nothing
    tiles = {
        "model": np.repeat(["a", "home", "b"], 8),
        "z": np.tile(np.arange(8), 3),
        "labelled": labelled,
        "f1": np.concatenate([good, bad, bad]),
    }
    found = noise.reliability(models, tiles, [f"image {z}" for z in range(8)], ["f1"])
    assert found == {"f1": {"half_tau": 1.0, "pairs": 1, "told_apart": 1, "taus": {"cte": 1.0}}}
    few = noise.reliability(models, tiles, [f"image {z // 3}" for z in range(8)], ["f1"])
    assert few == {"f1": None}, "two groups with labels tell nothing"


@pytest.fixture(scope="module")
def regimes(noise):
    import regimes

    return regimes


def target(scores, f1):
    models = [
        {"name": name, "left_out": None, "f1": f, "scores": {"cte": {"own": s}}}
        for name, s, f in zip(("a", "b", "c", "a-plain"), scores, f1, strict=True)
    ]
    return {"models": models}


def test_a_score_that_is_the_same_on_every_target_is_the_models_own(regimes):
    same = [target([-3.0, 2.0, 0.0, 1.0], [0.5, 0.6, 0.7, 0.8])] * 3
    assert regimes.model_share(same, "cte") == pytest.approx(1)
    turned = [target(s, [0.5] * 4) for s in ([-3.0, 3.0, -1.0, 1.0], [3.0, -3.0, 1.0, -1.0])]
    assert regimes.model_share(turned, "cte") == pytest.approx(0)
    assert regimes.model_share(same[:1], "cte") is None


def test_tau_within_a_regime_leaves_the_others_out(regimes):
    found = regimes.regime_tau([target([1.0, 2.0, 3.0, 9.0], [0.1, 0.2, 0.3, 0.0])], "f1", "cte")
    assert found == {"full": pytest.approx(1)}


def test_taking_off_a_models_own_mean_leaves_what_the_target_says(regimes):
    own = np.array([-50.0, 20.0, 3.0, -7.0])
    fits = [np.roll([0.1, 0.2, 0.3, 0.4], places) for places in range(4)]  # no model is better
    records = [target((own + 100 * (f - 0.25)).tolist(), f.tolist()) for f in fits]
    assert regimes.centred_tau(records, "f1", "cte") == pytest.approx(1)
    assert regimes.centred_tau(records[:1], "f1", "cte") is None
