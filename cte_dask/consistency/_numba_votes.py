"""The vote patterns of `vote_patterns` on the CPU: 64 voxels of 64 models are transposed at a time.

Where all models agree on 64 neighbouring voxels, which is most of an image, one comparison a model
counts them all.
"""

# ruff: noqa: PLR0917 - compiled functions take their arguments by position
from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["count_patterns"]

LANES = 64
EVERY_BIT = np.uint64(0xFFFFFFFFFFFFFFFF)
NONE = np.uint64(0)
ONE = np.uint64(1)


@njit(nogil=True, cache=True)
def _transpose(square):  # type: ignore[no-untyped-def]
    """Transpose 64 words of 64 bits in place: bit v of word m becomes bit m of word v.

    Halves, quarters … are exchanged (Warren, Hacker's Delight, 2012, section 7-3).
    """
    width = 32
    keep = np.uint64(0x00000000FFFFFFFF)
    while width:
        shift = np.uint64(width)
        row = 0
        while row < LANES:
            swapped = ((square[row] >> shift) ^ square[row + width]) & keep
            square[row] ^= swapped << shift
            square[row + width] ^= swapped
            row = (row + width + 1) & ~width
        width //= 2
        keep ^= keep << np.uint64(width)


@njit(nogil=True, cache=True)
def _slot(table, patterns, pattern):  # type: ignore[no-untyped-def]
    """Return the slot of a pattern in an open-addressing table of row numbers, or a free one."""
    mixed = NONE
    for word in pattern:
        mixed = (mixed ^ word) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    slots = np.uint64(len(table) - 1)
    slot = (mixed ^ (mixed >> np.uint64(32))) & slots
    while table[slot] >= 0:
        row = table[slot]
        equal = True
        for number in range(len(pattern)):
            equal &= patterns[row, number] == pattern[number]
        if equal:
            break
        slot = (slot + ONE) & slots
    return slot


@njit(nogil=True, cache=True)
def _add(table, patterns, counts, rows, pattern, voxels):  # type: ignore[no-untyped-def]
    """Count voxels of one pattern; return the rows in use, one too many if none is left for it."""
    slot = _slot(table, patterns, pattern)
    if table[slot] < 0:
        if rows == len(counts):
            return rows + 1
        table[slot] = rows
        patterns[rows] = pattern
        rows += 1
    counts[table[slot]] += voxels
    return rows


@njit(nogil=True, cache=True)
def _agrees(masks, word):  # type: ignore[no-untyped-def]
    """Return whether every model says the same of all 64 voxels of a word."""
    for model in range(len(masks)):
        bits = masks[model, word]
        if bits not in (NONE, EVERY_BIT):
            return False
    return True


@njit(nogil=True, cache=True)
def _load(masks, word, lanes):  # type: ignore[no-untyped-def]
    """Put the pattern of each voxel of a word into its lane (group, voxel)."""
    for group in range(len(lanes)):
        for lane in range(LANES):
            model = group * LANES + lane
            lanes[group, lane] = masks[model, word] if model < len(masks) else NONE
        _transpose(lanes[group])


@njit(nogil=True, cache=True)
def _load_first(masks, word, lanes):  # type: ignore[no-untyped-def]
    """Put the pattern of a word's first voxel into the first lane."""
    lanes[:, 0] = NONE
    for model in range(len(masks)):
        bit = (masks[model, word] & ONE) << np.uint64(model % LANES)
        lanes[model // LANES, 0] |= bit


@njit(nogil=True, cache=True)
def _run(lanes, inside, voxel):  # type: ignore[no-untyped-def]
    """Return how many voxels from one on lie in the core and have its pattern."""
    end = voxel + 1
    while end < LANES and (inside >> np.uint64(end)) & ONE:
        for group in range(len(lanes)):
            if lanes[group, end] != lanes[group, voxel]:
                return end - voxel
        end += 1
    return end - voxel


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
    counts[:] = 0
    rows = 0
    pattern = np.zeros(patterns.shape[1], np.uint64)
    lanes = np.zeros((patterns.shape[1], LANES), np.uint64)
    for word in range(0, masks.shape[1], step):
        inside = core[word]
        if inside == NONE:
            continue
        mixed_word = inside != EVERY_BIT or not _agrees(masks, word)
        if mixed_word:
            _load(masks, word, lanes)
        else:
            _load_first(masks, word, lanes)
        voxel = 0
        while voxel < LANES and rows <= len(counts):
            if not (inside >> np.uint64(voxel)) & ONE:
                voxel += 1
                continue
            run = _run(lanes, inside, voxel) if mixed_word else LANES
            for group in range(len(lanes)):
                pattern[group] = lanes[group, voxel]
            rows = _add(table, patterns, counts, rows, pattern, run)
            voxel += run
        if rows > len(counts):
            break
    return rows
