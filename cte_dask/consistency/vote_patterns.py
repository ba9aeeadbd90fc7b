"""Vote patterns: which sets of models call a voxel foreground, and on how many voxels of a tile.

Every model of a bank votes on every voxel of a tile. Voxels on which the same models vote for the
foreground are alike, so all that the votes tell is a short table: each distinct **pattern**, a word
with one bit a model, and how many voxels have it. Tables add: those of tiles make that of a block,
those of blocks that of a target, in any order. How two models overlap, what the majority says, and
the latent truth (`cte_dask.ranking.latent_truth`) are computed from them without touching a voxel
again.

A tile keeps `MOST_PATTERNS` of them at most. One that has more is looked at on a lattice, every
second (fourth, …) run of 64 voxels, and says so by its `step`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array, namespace, native_threshold, numba_pays, to_numpy

Words = npt.NDArray[np.uint64]

__all__ = [
    "MOST_PATTERNS",
    "VoteTables",
    "as_words",
    "core_bits",
    "joined",
    "no_votes",
    "packed",
    "vote_tables",
    "votes_of",
    "words_for",
]

WORD = 64
MOST_PATTERNS = 512
"""Patterns kept of a tile: 21 networks made 6 to 560 on tiles of 256² voxels."""
SORTING_SECONDS = 1e-8
"""What sorting takes a voxel and model."""


@dataclass(frozen=True, slots=True, eq=False)
class VoteTables:
    """The vote patterns of some tiles.

    Parameters
    ----------
    ends
        Where each tile's rows end, int64 (tile,).
    patterns
        Bit m of word w is the vote of model 64 w + m, uint64 (row, word); ascending within a tile.
    counts
        Voxels looked at that have the pattern, int64 (row,).
    voted
        Which models have a prediction, bool (tile, model); the bits of others are 0.
    step
        Each how manieth run of 64 voxels was looked at, int64 (tile,); 0 where no table was made.
    """

    ends: npt.NDArray[np.int64]
    patterns: Words
    counts: npt.NDArray[np.int64]
    voted: npt.NDArray[np.bool_]
    step: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def models(self) -> int:
        """Number of models."""
        return int(self.voted.shape[1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Rows of each tile, int64 (tile,)."""
        return np.diff(self.ends, prepend=0)

    @property
    def tile(self) -> npt.NDArray[np.int64]:
        """Tile of each row, int64 (row,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def voxels(self) -> npt.NDArray[np.int64]:
        """Voxels that each row stands for, int64 (row,): more than were looked at on a lattice."""
        voxels: npt.NDArray[np.int64] = self.counts * self.step[self.tile]
        return voxels

    def votes(self) -> npt.NDArray[np.bool_]:
        """Return the votes of each row, bool (row, model)."""
        return votes_of(self.patterns, self.models)

    def of_tile(self, tile: int) -> VoteTables:
        """Return the table of one tile.

        Parameters
        ----------
        tile
            Its place.
        """
        rows, one = (
            slice(self.ends[tile] - self.lengths[tile], self.ends[tile]),
            slice(tile, tile + 1),
        )
        table = self.patterns[rows], self.counts[rows]
        return _tables([table], self.voted[one], self.step[one])

    def without(self, models: Sequence[int]) -> VoteTables:
        """Return the tables as if some models had no prediction.

        Parameters
        ----------
        models
            Their numbers.
        """
        voted = self.voted.copy()
        voted[:, list(models)] = False
        left = np.ones(self.models, bool)
        left[list(models)] = False
        keep = as_words(left[None])[0]
        tables = [
            _merged(self.patterns[low:high] & keep, self.counts[low:high])
            for low, high in zip(self.ends - self.lengths, self.ends, strict=True)
        ]
        return _tables(tables, voted, self.step)


def words_for(models: int) -> int:
    """Return the words of a pattern of so many models."""
    return -(-models // WORD)


def votes_of(patterns: Words, models: int) -> npt.NDArray[np.bool_]:
    """Return the bits of patterns, bool (row, model).

    Parameters
    ----------
    patterns
        uint64 (row, word).
    models
        Number of models.
    """
    little = np.ascontiguousarray(patterns).astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(
        little.reshape(len(patterns), 8 * patterns.shape[1]), axis=1, bitorder="little"
    )
    return bits[:, :models].astype(bool)


def as_words(votes: npt.NDArray[np.bool_]) -> Words:
    """Return votes as patterns, uint64 (row, word).

    Parameters
    ----------
    votes
        bool (row, model).
    """
    rows, models = votes.shape
    bits = np.zeros((rows, words_for(models) * WORD), bool)
    bits[:, :models] = votes
    words: Words = np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    return words


def packed(maps: Sequence[Array], *, cores: Sequence[tuple[slice, ...]], threshold: float) -> Array:
    """Pack the foreground masks of one model, a bit a voxel.

    Parameters
    ----------
    maps
        One array a class, (T, z, y, x): probabilities; foreground of any class is foreground.
    cores
        The scored part of each tile; what lies outside is in no mask.
    threshold
        A voxel is foreground if its value is strictly greater, compared in the maps' dtype.

    Returns
    -------
    ndarray of uint64, shape (T, word)
        64 voxels a word, the last one filled with zeros; in the library of the maps.
    """
    xp = namespace(*maps)
    tiles, *extent = maps[0].shape
    masks = xp.zeros((tiles, *extent), dtype=bool)
    whole = tuple(slice(0, n) for n in extent)
    for values in maps:
        limit = native_threshold(threshold, values.dtype)
        if list(cores) == [whole] * tiles:  # nearly always; on a GPU each call costs its launch
            masks |= values > limit
            continue
        for tile, core in enumerate(cores):
            masks[tile][core] |= values[tile][core] > limit
    return _packed_bits(xp, masks)


def core_bits(extent: Sequence[int], cores: Sequence[tuple[slice, ...]]) -> Words:
    """Return the voxels of tiles' cores as `packed` packs masks, uint64 (T, word).

    Parameters
    ----------
    extent
        Shape of a whole tile.
    cores
        The scored part of each tile.
    """
    masks = np.zeros((len(cores), *extent), bool)
    for tile, core in enumerate(cores):
        masks[tile][core] = True
    words: Words = _packed_bits(np, masks)
    return words


def _packed_bits(xp: ModuleType, masks: Array) -> Array:
    tiles, voxels = len(masks), math.prod(masks.shape[1:])
    padded = xp.zeros((tiles, -(-voxels // WORD) * WORD), dtype=bool)
    padded[:, :voxels] = masks.reshape(tiles, -1)
    words: Array = xp.packbits(padded.reshape(-1)).view(xp.uint64).reshape(tiles, -1)
    return words


def vote_tables(
    masks: Array,
    cores: Array,
    voted: npt.NDArray[np.bool_],
    *,
    most: int = MOST_PATTERNS,
) -> VoteTables:
    """Count the vote patterns of some tiles.

    Parameters
    ----------
    masks
        Each model's foreground, packed, uint64 (model, T, word); those of models without a
        prediction are not read.
    cores
        The voxels that count, packed alike, uint64 (T, word); on the host.
    voted
        Which models have a prediction, bool (T, model).
    most
        Patterns of a tile, at most; 64 at least, as many as one word of voxels can have.

    Returns
    -------
    VoteTables
        On the host. The same for any batch and order of tiles. Tiles without a voter are empty.

    Raises
    ------
    ValueError
        If `most` is below 64: no lattice would be coarse enough.

    Examples
    --------
    Two models on a tile of four voxels: both vote for two of them, the second for one more.

    >>> whole = [(slice(0, 1), slice(0, 1), slice(0, 4))]
    >>> maps = [np.array([[[[0.9, 0.9, 0.1, 0.1]]]]), np.array([[[[0.9, 0.9, 0.9, 0.1]]]])]
    >>> masks = np.stack([packed([m], cores=whole, threshold=0.5) for m in maps])
    >>> table = vote_tables(masks, core_bits((1, 1, 4), whole), np.ones((1, 2), bool))
    >>> table.votes().astype(int).tolist(), table.counts.tolist()
    ([[0, 0], [0, 1], [1, 1]], [1, 1, 2])
    """
    if most < WORD:
        raise ValueError(f"most {most} must be at least {WORD} patterns a tile")
    models = len(masks)
    tables, steps = [], np.zeros(len(cores), np.int64)
    scratch = _Scratch(words_for(models), most)
    for tile, present in enumerate(voted):
        if not present.any():
            tables.append(_merged(np.empty((0, words_for(models)), np.uint64), np.empty(0, int)))
            continue
        chosen = masks[:, tile].copy()
        for absent in np.flatnonzero(~present):
            chosen[int(absent)] = 0
        table, steps[tile] = scratch.table(chosen, cores[tile])
        tables.append(table)
    return _tables(tables, voted, steps)


Table = tuple[Words, npt.NDArray[np.int64]]


class _Scratch:
    """Memory for the patterns of one tile at a time."""

    def __init__(self, words: int, most: int) -> None:
        self.patterns = np.empty((most, words), np.uint64)
        self.counts = np.empty(most, np.int64)
        self.slots = np.empty(1 << (2 * most - 1).bit_length(), np.int32)

    def table(self, masks: Array, core: Words) -> tuple[Table, int]:
        """Return the patterns of a tile, on the finest lattice on which they are few enough."""
        step = 1
        while (table := self._patterns(masks, core, step)) is None:
            step *= 2
        return table, step

    def _patterns(self, masks: Array, core: Words, step: int) -> Table | None:
        if namespace(masks) is not np:
            from cte_dask.consistency._cupy_votes import words_of
            from cte_dask.consistency._sorted_pairs import distinct_rows

            words = words_of(masks, _on_device(masks, core), step)
            patterns, counts = map(to_numpy, distinct_rows(words))
            return (patterns, counts) if len(counts) <= len(self.counts) else None
        if not numba_pays(masks.size * WORD * SORTING_SECONDS):
            patterns, counts = patterns_by_sorting(masks, core, step)
            return (patterns, counts) if len(counts) <= len(self.counts) else None
        from cte_dask.consistency._numba_votes import count_patterns

        rows = count_patterns(masks, core, step, self.slots, self.patterns, self.counts)
        return (
            None if rows > len(self.counts) else _merged(self.patterns[:rows], self.counts[:rows])
        )


def _on_device(like: Array, core: Words) -> Array:
    device_array: Array = namespace(like).asarray(core)
    return device_array


def patterns_by_sorting(masks: Words, core: Words, step: int) -> Table:
    """Return the patterns of one tile, ascending, and their counts: plain NumPy, the reference.

    Parameters
    ----------
    masks, core, step
        Words and step, as `cte_dask.consistency._numba_votes.count_patterns` takes them.
    """

    def bits(words: Words) -> npt.NDArray[np.bool_]:
        chosen = np.ascontiguousarray(words[..., ::step])
        return np.unpackbits(chosen.view(np.uint8), axis=-1).astype(bool)

    return _merged(as_words(bits(masks).T[bits(core)]), None)


def _merged(patterns: Words, counts: npt.NDArray[np.int64] | None) -> Table:
    """Return distinct patterns in ascending order, the counts of equal ones added; None: 1 each."""
    # words of one column are sorted as numbers, several ones as records, many times slower
    rows = patterns[:, 0] if patterns.shape[1] == 1 else patterns
    if counts is None:
        distinct, added = np.unique(rows, axis=0, return_counts=True)
    else:
        distinct, place = np.unique(rows, axis=0, return_inverse=True)
        added = np.zeros(len(distinct), np.int64)
        np.add.at(added, place.reshape(-1), counts)
    return distinct.reshape(-1, patterns.shape[1]), added.astype(np.int64, copy=False)


def _tables(
    tables: Sequence[Table], voted: npt.NDArray[np.bool_], step: npt.NDArray[np.int64]
) -> VoteTables:
    words = words_for(voted.shape[1])
    return VoteTables(
        ends=np.cumsum([len(counts) for _, counts in tables], dtype=np.int64),
        patterns=np.concatenate([np.empty((0, words), np.uint64), *(p for p, _ in tables)]),
        counts=np.concatenate([np.empty(0, np.int64), *(c for _, c in tables)]),
        voted=voted.copy(),
        step=step.copy(),
    )


def no_votes(tiles: int, models: int) -> VoteTables:
    """Return the tables of tiles that have none."""
    empty = np.empty((0, words_for(models)), np.uint64), np.empty(0, np.int64)
    return _tables([empty] * tiles, np.zeros((tiles, models), bool), np.zeros(tiles, np.int64))


def joined(tables: Sequence[VoteTables]) -> VoteTables:
    """Return the tables of all tiles one after another.

    Parameters
    ----------
    tables
        At least one; of the same models.
    """
    before = np.cumsum([0, *(len(t.counts) for t in tables[:-1])])
    return VoteTables(
        ends=np.concatenate([t.ends + b for t, b in zip(tables, before, strict=True)]),
        patterns=np.concatenate([t.patterns for t in tables]),
        counts=np.concatenate([t.counts for t in tables]),
        voted=np.concatenate([t.voted for t in tables]),
        step=np.concatenate([t.step for t in tables]),
    )
