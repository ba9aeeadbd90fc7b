"""Pairs of models: in which order their numbers stand, and how much their foregrounds overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array

if TYPE_CHECKING:
    from cte_dask.consistency.vote_patterns import VoteTables

__all__ = ["pair_overlaps", "pair_table", "pairs_of"]


def pairs_of(models: int) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of models in the order of every table of pairs."""
    return [(i, j) for i in range(models) for j in range(i + 1, models)]


def pair_table(rows: Array, models: int) -> npt.NDArray[np.float64]:
    """Return rows of pairs as a symmetric table.

    Parameters
    ----------
    rows
        (pair, ...) in the order of `pairs_of`.
    models
        Number of models.

    Returns
    -------
    ndarray of float64, shape (models, models, ...)
        NaN on the diagonal.
    """
    table = np.full((models, models, *rows.shape[1:]), np.nan)
    for row, (i, j) in zip(rows, pairs_of(models), strict=True):
        table[i, j] = table[j, i] = row
    return table


def pair_overlaps(tables: VoteTables) -> npt.NDArray[np.float64]:
    """Return the IoU of every two models' foregrounds on every tile.

    Parameters
    ----------
    tables
        The vote patterns.

    Returns
    -------
    ndarray of float64, shape (pair, tile)
        Pairs as in `pairs_of`. NaN where neither model has foreground, or one has no prediction.
    """
    tiles, models = tables.voted.shape
    common = np.zeros((tiles, models, models))
    votes, voxels = tables.votes().astype(np.float64), tables.voxels.astype(np.float64)
    starts = tables.ends - tables.lengths
    for tile, (low, high) in enumerate(zip(starts, tables.ends, strict=True)):
        own = votes[low:high]
        common[tile] = own.T @ (own * voxels[low:high, None])
    rows = np.full((models * (models - 1) // 2, tiles), np.nan)
    for row, (i, j) in enumerate(pairs_of(models)):
        union = common[:, i, i] + common[:, j, j] - common[:, i, j]
        both = tables.voted[:, i] & tables.voted[:, j] & (union > 0)
        rows[row, both] = common[both, i, j] / union[both]
    return rows
