"""The vote patterns of `vote_patterns` on the CPU, a word of 64 voxels at a time.

The voxels of a word are one set; each model cuts every set in two, those it calls foreground and
those it does not. What is left are as many sets as the word has patterns: one where all models
agree on 64 neighbouring voxels, which is most of an image.
"""

# ruff: noqa: PLR0917 - compiled functions take their arguments by position
from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["count_patterns"]

WORD = 64
NONE = np.uint64(0)
ONE = np.uint64(1)


@njit(nogil=True, cache=True)
def _add(table, patterns, counts, rows, voters, i, voxels):  # type: ignore[no-untyped-def]
    """Count the voxels of set i; return the rows in use, one too many if none is left for it.

    `table` holds row numbers by the hash of their pattern, with open addressing.
    """
    mixed, groups = NONE, patterns.shape[1]
    for k in range(groups):
        mixed = (mixed ^ voters[i, k]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    slots = np.uint64(len(table) - 1)
    slot = (mixed ^ (mixed >> np.uint64(32))) & slots
    while True:
        row, k = table[slot], 0
        if row < 0:
            if rows == len(counts):
                return rows + 1
            table[slot] = rows
            for k in range(groups):
                patterns[rows, k] = voters[i, k]
            counts[rows] = voxels
            return rows + 1
        while k < groups and patterns[row, k] == voters[i, k]:
            k += 1
        if k == groups:
            counts[row] += voxels
            return rows
        slot = (slot + ONE) & slots


@njit(nogil=True, cache=True)
def _split(masks, word, inside, sets, voters):  # type: ignore[no-untyped-def]
    """Part the voxels of a word by their patterns.

    Writes the bits of each set's voxels and its pattern (set, word); returns how many sets there
    are, 64 at most.
    """
    groups = voters.shape[1]
    sets[0] = inside
    for k in range(groups):
        voters[0, k] = NONE
    number = 1
    for model in range(len(masks)):
        votes, group, bit = masks[model, word], model // WORD, ONE << np.uint64(model % WORD)
        for i in range(number):
            yes, no = sets[i] & votes, sets[i] & ~votes
            if yes == NONE:
                continue
            if no != NONE:
                sets[number] = no
                for k in range(groups):
                    voters[number, k] = voters[i, k]
                number += 1
                sets[i] = yes
            voters[i, group] |= bit
    return number


@njit(nogil=True, cache=True)
def _bits(word):  # type: ignore[no-untyped-def]
    """Return how many bits of a word are set (Warren, Hacker's Delight, 2012, section 5-1)."""
    pairs = word - ((word >> ONE) & np.uint64(0x5555555555555555))
    nibble = np.uint64(0x3333333333333333)
    fours = (pairs & nibble) + ((pairs >> np.uint64(2)) & nibble)
    bytes_ = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(nogil=True, cache=True)
def count_patterns(masks, core, step, table, patterns, counts):  # type: ignore[no-untyped-def]
    """Count the patterns of one tile.

    Parameters
    ----------
    masks
        Bits of each model's foreground, uint64 (model, word).
    core
        Bits of the voxels that count, uint64 (word,).
    step
        Every how manieth word of 64 voxels is looked at.
    table, patterns, counts
        Scratch: row numbers int32 (a power of two, at least twice the patterns), patterns uint64
        (row, word), counts int64 (row,). Their content is dropped.

    Returns
    -------
    int
        Patterns found; more than there are rows if these do not do.
    """
    table[:] = -1
    rows = 0
    sets = np.empty(WORD, np.uint64)
    voters = np.empty((WORD, patterns.shape[1]), np.uint64)
    for word in range(0, masks.shape[1], step):
        if core[word] == NONE:
            continue
        for i in range(_split(masks, word, core[word], sets, voters)):
            rows = _add(table, patterns, counts, rows, voters, i, np.int64(_bits(sets[i])))
            if rows > len(counts):
                return rows
    return rows
