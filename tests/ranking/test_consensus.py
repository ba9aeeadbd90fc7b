"""The consensus: what the models of a bank see together, and how surely."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from cte_dask.ranking.consensus import consensus_of, seen_by, uncertainty_of
from cte_dask.results.block_codec import encoded_votes
from tests.simulated_votes import simulated, tables_of

GOOD = [(0.95, 0.02), (0.9, 0.03), (0.85, 0.02), (0.8, 0.05), (0.75, 0.04)]


def scores(votes, voted=None) -> xr.Dataset:
    """The votes of a run, (model, tile, voxel), as a store gives them."""
    tables = tables_of(votes, voted)
    return xr.Dataset(
        {"votes": (("tile", "vote"), encoded_votes(tables))},
        coords={"model": [f"m{i}" for i in range(len(votes))], "tile": np.arange(votes.shape[1])},
    )


def usable(models: int) -> np.ndarray:
    return np.zeros(models, bool)


def test_it_expects_as_much_foreground_as_there_is():
    truth, votes = simulated(np.random.default_rng(0), GOOD)
    consensus = consensus_of(scores(votes), usable(5))
    assert consensus.models == ("m0", "m1", "m2", "m3", "m4")
    error = consensus.foreground - truth.mean(axis=-1)
    assert np.abs(error).max() < 0.06


def test_it_is_least_sure_where_models_contradict_each_other():
    _, votes = simulated(np.random.default_rng(1), GOOD)
    votes[:, 0] = votes[:1, 0]  # of one mind
    votes[:2, 1], votes[2:, 1] = True, False
    uncertainty = consensus_of(scores(votes), usable(5)).uncertainty
    assert uncertainty[0] < 0.01
    assert uncertainty.argmax() == 1


def test_tiles_without_a_vote_are_not_known():
    _, votes = simulated(np.random.default_rng(2), GOOD)
    voted = np.ones(votes.shape[1::-1], bool)
    voted[3] = False
    consensus = consensus_of(scores(votes, voted), usable(5))
    known = ~np.isnan(consensus.foreground)
    assert np.flatnonzero(~known).tolist() == [3]


def test_flagged_models_and_those_that_speak_against_it_have_no_say():
    _, votes = simulated(np.random.default_rng(3), [*GOOD, (0.1, 0.6), (0.99, 0.01)])
    flagged = np.array([False] * 6 + [True])
    assert consensus_of(scores(votes), flagged).models == ("m0", "m1", "m2", "m3", "m4")


def test_of_two_models_there_is_none():
    _, votes = simulated(np.random.default_rng(4), GOOD[:2])
    with pytest.raises(ValueError, match="2 models of this run have a say, a consensus takes 3"):
        consensus_of(scores(votes), usable(2))


def test_a_voxel_is_uncertain_as_far_as_the_votes_are_split():
    _, votes = simulated(np.random.default_rng(5), GOOD)
    fit = consensus_of(scores(votes), usable(5)).fit
    patterns = np.array([[1] * 5, [0] * 5, [1, 1, 1, 0, 0]], bool)
    fitted, tempered = seen_by(fit, patterns, np.ones(5, bool))
    assert fitted[0] > 0.99
    assert fitted[1] < 0.01
    doubt = uncertainty_of(tempered)
    assert doubt[:2].max() < 0.01
    assert doubt[2] > 0.3
