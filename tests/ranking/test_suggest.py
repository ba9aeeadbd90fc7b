"""Which tiles are worth labelling: those on which leading models differ and nobody knows."""

from __future__ import annotations

import numpy as np
import pytest

from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.ranking.suggest import MOST_MODELS, suggest_tiles, tiles_to_label
from tests.ranking.test_transfer import dataset
from tests.simulated_votes import simulated

RATES = [(0.95, 0.02), (0.9, 0.03), (0.85, 0.02), (0.8, 0.05), (0.75, 0.04), (0.7, 0.1)]
LEADING = [f"m{i}" for i in range(6)]


def scores(votes, **more):
    data = dataset(votes, [0.9] * len(votes), **more)
    return data.assign_coords(tile=np.arange(data.sizes["tile"]) + 100)


def agreeing(*, differ: dict[int, tuple[int, ...]], tiles: int = 12):
    """Votes of six models alike, but on some tiles, where some models see another object."""
    rng = np.random.default_rng(0)
    truth, _ = simulated(rng, RATES, tiles=tiles)
    votes = np.repeat(truth[None], 6, axis=0)
    for tile, models in differ.items():
        votes[list(models), tile] = rng.random(truth.shape[1]) < 0.3
    return votes


def test_a_tile_on_which_leading_models_differ_comes_first():
    data = scores(agreeing(differ={7: (0, 1, 2)}))
    ((tile, pair),) = tiles_to_label(data, 1, leading=LEADING)
    assert tile == 107
    assert len({"m0", "m1", "m2"} & set(pair)) >= 1


def test_where_all_agree_nothing_is_to_be_labelled():
    data = scores(agreeing(differ={7: (0, 1, 2), 3: (4,)}))
    assert {tile for tile, _ in tiles_to_label(data, 5, leading=LEADING)} == {103, 107}
    with pytest.raises(ValueError, match="no tile tells any two models apart"):
        tiles_to_label(scores(agreeing(differ={})), 5, leading=LEADING)
    with pytest.raises(ValueError, match="fewer than two"):
        tiles_to_label(data, 5, leading=LEADING[:1])


def test_tiles_that_tell_other_pairs_apart_are_worth_more_than_the_same_again():
    same = dict.fromkeys((1, 2, 4, 5, 6), (0,))
    data = scores(agreeing(differ={**same, 9: (3,)}))
    (first, second) = (tile for tile, _ in tiles_to_label(data, 2, leading=LEADING))
    assert 109 in (first, second)


def test_the_same_scores_give_the_same_tiles():
    _, votes = simulated(np.random.default_rng(1), RATES, tiles=30)
    choices = [tiles_to_label(scores(votes), 5, leading=LEADING) for _ in range(2)]
    assert choices[0] == choices[1]
    assert len({tile for tile, _ in choices[0]}) == 5
    assert tiles_to_label(scores(votes), 3, leading=LEADING) == choices[0][:3]


def test_a_tile_without_votes_is_never_suggested():
    votes = agreeing(differ={3: (0, 1), 7: (0, 1, 2)})
    voted = np.ones((12, 6), bool)
    voted[7] = False
    data = scores(votes, voted=voted)
    assert [tile for tile, _ in tiles_to_label(data, 5, leading=LEADING)] == [103]


def test_tiles_that_are_labelled_are_not_suggested_again():
    _, votes = simulated(np.random.default_rng(2), RATES, tiles=30)
    data = scores(votes)
    first = [tile for tile, _ in tiles_to_label(data, 3, leading=LEADING)]
    more = [tile for tile, _ in tiles_to_label(data, 3, leading=LEADING, labelled=first)]
    assert not set(first) & set(more)
    six = [tile for tile, _ in tiles_to_label(data, 6, leading=LEADING)]
    assert six == first + more


def test_only_leading_models_matter():
    rng = np.random.default_rng(3)
    truth, votes = simulated(rng, [(0.95, 0.01)] * (MOST_MODELS + 2), tiles=8)
    votes[:MOST_MODELS] = truth
    votes[:MOST_MODELS:2, 5, :20] ^= True
    for model in range(MOST_MODELS):  # no model is a copy of another
        votes[model, 5, 30 + model] ^= True
    names = [f"m{i}" for i in range(MOST_MODELS + 2)]
    assert [tile for tile, _ in tiles_to_label(scores(votes), 5, leading=names)] == [105]


def test_of_instances_the_tile_where_objects_differ_most_comes_first():
    _, votes = simulated(np.random.default_rng(4), RATES, tiles=6)
    data = scores(votes)
    precision = np.full((len(pairs_of(6)), 6), 0.9)
    precision[:, 4] = 0.2
    precision[:, 2] = np.nan
    data["precision"] = ("pair", "tile"), precision
    chosen = [tile for tile, _ in tiles_to_label(data, 6, leading=LEADING)]
    assert chosen[0] == 104
    assert 102 not in chosen


def test_a_number_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        suggest_tiles("RUN", 0)
