"""The votes of a bank on a target: every distinct pattern once, whatever the number of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cte_dask.consistency.vote_patterns import votes_of

if TYPE_CHECKING:
    from cte_dask.consistency.vote_patterns import VoteTables

__all__ = ["Ballot", "ballot_of", "copies"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ROWS_AT_ONCE = 2**14
"""Patterns of one step: their numbers stay in the processor's caches."""
FEW_NUMBERS = 2**20
"""Fewer are added up in NumPy, to the same bits, before SciPy would be loaded."""


@dataclass(frozen=True, slots=True, eq=False)
class Ballot:
    """The votes of a bank on a target: its distinct patterns, each with those who voted.

    Parameters
    ----------
    votes
        Which models call it foreground, bool (pattern, model).
    voters
        Each distinct set of models that voted, bool (set, model).
    ends
        Where the patterns of each set end, int64 (set,).
    place
        Pattern of each row of the tables it was made of, int64 (row,).
    voxels
        Voxels of each of those rows, float64 (row,).
    tile_ends
        Where the rows of each tile end, int64 (tile,).
    voted
        Which models voted on a tile, bool (tile, model).
    """

    votes: Mask
    voters: Mask
    ends: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    voxels: Floats
    tile_ends: npt.NDArray[np.int64]
    voted: Mask

    @property
    def models(self) -> int:
        """Number of models."""
        return int(self.votes.shape[1])

    @property
    def total(self) -> Floats:
        """Voxels of each pattern, float64 (pattern,)."""
        return np.bincount(self.place, self.voxels, minlength=len(self.votes)).astype(np.float64)

    def pieces(self) -> Iterator[tuple[slice, Mask]]:
        """Yield patterns some at a time.

        Yields
        ------
        tuple
            Their places, and the models that voted on all of them, bool (model,).
        """
        low = 0
        for end, voters in zip(self.ends.tolist(), self.voters, strict=True):
            for start in range(low, end, ROWS_AT_ONCE):
                yield slice(start, min(start + ROWS_AT_ONCE, end)), voters
            low = end

    def per_tile(self, pattern_values: Floats) -> Floats:
        """Return sums over the voxels of each tile of values of their patterns.

        Parameters
        ----------
        pattern_values
            float64 (pattern, column).

        Returns
        -------
        ndarray of float64, shape (tile, column)
        """
        if len(self.place) * pattern_values.shape[1] < FEW_NUMBERS:
            tile = np.repeat(np.arange(len(self.voted)), np.diff(self.tile_ends, prepend=0))
            weights = self.voxels[:, None] * pattern_values[self.place]
            sums = [np.bincount(tile, w, minlength=len(self.voted)) for w in weights.T]
            return np.array(sums, np.float64).reshape(-1, len(self.voted)).T
        from scipy.sparse import csr_array

        shape, ends = (len(self.voted), len(self.votes)), np.insert(self.tile_ends, 0, 0)
        return np.asarray(csr_array((self.voxels, self.place, ends), shape=shape) @ pattern_values)


def ballot_of(tables: VoteTables) -> Ballot:
    """Merge the vote patterns of tiles.

    Parameters
    ----------
    tables
        Of all tiles. The order of tiles, and how they were cut into blocks, changes no bit of what
        is fitted to them.

    Returns
    -------
    Ballot
    """
    voters, of_tile = np.unique(tables.voted, axis=0, return_inverse=True)
    group = of_tile.reshape(-1)[tables.tile]
    place = np.empty(len(group), np.int64)
    distinct, ends = [np.empty((0, tables.models), bool)], []
    number = 0
    for which in range(len(voters)):
        rows = np.flatnonzero(group == which)
        patterns, inverse = _distinct(tables.patterns[rows])
        place[rows] = inverse + number
        number += len(patterns)
        ends.append(number)
        distinct.append(votes_of(patterns, tables.models))
    return Ballot(
        votes=np.concatenate(distinct),
        voters=voters,
        ends=np.array(ends, np.int64),
        place=place,
        voxels=tables.voxels.astype(np.float64),
        tile_ends=tables.ends,
        voted=tables.voted,
    )


def _distinct(
    patterns: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return distinct rows, ascending, and the number of each row's; one word a row is quick."""
    if patterns.shape[1] == 1:
        ordered = np.sort(patterns[:, 0])  # np.unique takes ten times as long
        words = np.concatenate([ordered[:1], ordered[1:][ordered[1:] != ordered[:-1]]])
        return words[:, None], np.searchsorted(words, patterns[:, 0])
    rows, inverse = np.unique(patterns, axis=0, return_inverse=True)
    return rows, inverse.reshape(-1)


def copies(ballot: Ballot) -> npt.NDArray[np.int64]:
    """Return for each model the first one that votes as it does on every voxel of every tile.

    Parameters
    ----------
    ballot
        The votes.

    Returns
    -------
    ndarray of int64, shape (model,)
        A model's own number if it is a copy of none.
    """
    first: dict[tuple[bytes, bytes], int] = {}
    counted = ballot.total > 0
    votes, voters = ballot.votes[counted], ballot.voters
    return np.array(
        [
            first.setdefault((votes[:, m].tobytes(), voters[:, m].tobytes()), m)
            for m in range(ballot.models)
        ],
        np.int64,
    )
