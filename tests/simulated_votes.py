"""Votes of models with known rates on a known truth."""

from __future__ import annotations

import numpy as np

from cte_dask.consistency.vote_patterns import VoteTables, core_bits, packed, vote_tables


def simulated(rng, rates, *, tiles=20, voxels=400, prior=0.3):
    """Return a truth (tile, voxel) and votes (model, tile, voxel) of given rates."""
    truth = rng.random((tiles, voxels)) < prior
    votes = [rng.random(truth.shape) < np.where(truth, a, b) for a, b in rates]
    return truth, np.array(votes)


def tables_of(votes, voted=None, most=2**16) -> VoteTables:
    """Return the vote tables of votes (model, tile, voxel)."""
    models, tiles, voxels = votes.shape
    maps = votes.astype(np.float32).reshape(models, tiles, 1, 1, voxels)
    cores = [(slice(0, 1), slice(0, 1), slice(0, voxels))] * tiles
    masks = np.stack([packed([m], cores=cores, threshold=0.5) for m in maps])
    voted = np.ones((tiles, models), bool) if voted is None else voted
    return vote_tables(masks, core_bits((1, 1, voxels), cores), voted, most=most)
