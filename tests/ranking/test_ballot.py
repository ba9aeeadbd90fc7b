"""Sums over tiles: the same bits in NumPy as in SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from cte_dask.ranking import ballot as ballots
from cte_dask.ranking.ballot import ballot_of
from tests.simulated_votes import simulated, tables_of


@pytest.mark.parametrize("columns", [0, 1, 7])
def test_few_numbers_are_added_up_to_the_bits_of_many(columns, monkeypatch):
    rng = np.random.default_rng(0)
    _, votes = simulated(rng, [(0.9, 0.1), (0.8, 0.2), (0.7, 0.1)])
    voted = rng.random(votes.shape[1::-1]) < 0.8
    voted[3] = False  # a tile without a row
    ballot = ballot_of(tables_of(votes, voted))
    values = rng.normal(size=(len(ballot.votes), columns))
    few = ballot.per_tile(values)
    monkeypatch.setattr(ballots, "FEW_NUMBERS", 0)
    many = ballot.per_tile(values)
    assert few.shape == many.shape == (votes.shape[1], columns)
    np.testing.assert_array_equal(few, many)
