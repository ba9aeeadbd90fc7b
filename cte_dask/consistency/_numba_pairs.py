"""The pair counts of `contingency` on the CPU: one scan, runs along x, an open-addressing table.

A row of the table is (reference id, perturbed id, voxels); voxels = 0 marks a free row. It is
doubled as it fills, so its memory follows the number of pairs of objects that meet. Measured on two
labelings of 512^3 voxels with 1.1 million objects each and 8 million pairs: half the time and half
the memory (1.1 times one labeling's bytes) of `_sorted_pairs`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

from cte_dask.arrays import Array

__all__ = ["CHUNK_VOXELS", "pair_sums"]

CHUNK_VOXELS = 2**16
"""Voxels scanned in one call: two columns of int64 ids then fit the processor's second cache."""

_FIRST_ROWS = 1024


def pair_sums(chunks: Iterable[tuple[Array, Array]]) -> tuple[int, int, int, int, int, int]:
    """Count pairs in NumPy labels.

    Parameters
    ----------
    chunks
        Reference and perturbed ids of the same voxels, flat contiguous int64; 0 is background.

    Returns
    -------
    tuple of int
        The fields of `PairCounts` but for n_voxels.
    """
    table, chunk, used = _new_table(_FIRST_ROWS), _new_table(_FIRST_ROWS), 0
    for reference, perturbed in chunks:
        table, chunk, used = _fold(reference, perturbed, table, chunk, used)
    common, union = _pairs_in(table)
    pairs_r, in_r = _pairs_of_column(table, 0)
    pairs_p, in_p = _pairs_of_column(table, 1)
    return common, pairs_p, pairs_r, union, in_r, in_p


@njit(nogil=True, cache=True)
def _row_of(table, r, p):  # type: ignore[no-untyped-def]
    """Return the row of a pair, or the free row where it belongs."""
    rows = np.uint64(table.shape[0])
    # Ids are often consecutive: multiplying by odd 64-bit constants (the first is 2**64 over the
    # golden ratio) and folding the upper half down spreads them over the whole table.
    mixed = np.uint64(r) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(p)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    # The leading bits scaled to the table: a small table's order is that of a large one, so that
    # folding one into another walks through memory instead of jumping.
    row = ((mixed >> np.uint64(32)) * rows) >> np.uint64(32)
    # Linear probing: neighbouring rows share cache lines. It ends because a third stays free.
    while table[row, 2] != 0 and (table[row, 0] != r or table[row, 1] != p):
        row += np.uint64(1)
        if row == rows:
            row = np.uint64(0)
    return row


@njit(nogil=True, cache=True)
def _new_table(rows):  # type: ignore[no-untyped-def]
    return np.zeros((rows, 3), dtype=np.int64)


@njit(nogil=True, cache=True)
def _doubled(table):  # type: ignore[no-untyped-def]
    larger = _new_table(2 * table.shape[0])
    for i in range(table.shape[0]):
        if table[i, 2] != 0:
            row = _row_of(larger, table[i, 0], table[i, 1])
            for column in range(3):
                larger[row, column] = table[i, column]
    return larger


@njit(nogil=True, cache=True)
def _add(table, used, r, p, voxels):  # type: ignore[no-untyped-def]
    """Add voxels to a pair; return the table, which may be a larger one, and its rows in use."""
    row = _row_of(table, r, p)
    if table[row, 2] != 0:
        table[row, 2] += voxels
        return table, used
    table[row, 0] = r
    table[row, 1] = p
    table[row, 2] = voxels
    if 3 * (used + 1) > 2 * table.shape[0]:  # fuller than two thirds, probing gets long
        table = _doubled(table)
    return table, used + 1


@njit(nogil=True, cache=True)
def _add_runs(reference, perturbed, table):  # type: ignore[no-untyped-def]
    """Add the runs of equal pairs to an empty table, except runs of background in both."""
    used = 0
    start = 0
    # One step past the end closes the last run.
    for i in range(1, reference.size + 1):
        r, p = reference[start], perturbed[start]
        if i < reference.size and reference[i] == r and perturbed[i] == p:
            continue
        if r != 0 or p != 0:
            table, used = _add(table, used, r, p, i - start)
        start = i
    return table, used


@njit(nogil=True, cache=True)
def _fold(reference, perturbed, table, chunk, used):  # type: ignore[no-untyped-def]
    """Add a chunk's pairs to the table through a small table, which is returned empty.

    A pair that many rows of the chunk hold is then looked up in the large table once.
    """
    chunk, more = _add_runs(reference, perturbed, chunk)
    # Room for all first: rows that arrive in order would pile up in a table that is still filling.
    while 3 * (used + more) > 2 * table.shape[0]:
        table = _doubled(table)
    for i in range(chunk.shape[0]):
        if chunk[i, 2] != 0:
            table, used = _add(table, used, chunk[i, 0], chunk[i, 1], chunk[i, 2])
            chunk[i, 2] = 0
    return table, chunk, used


@njit(nogil=True, cache=True)
def _pairs_in(table):  # type: ignore[no-untyped-def]
    """Return the voxel pairs inside intersections of objects, and all voxels of the table."""
    pairs = 0
    voxels = 0
    for i in range(table.shape[0]):
        if table[i, 0] != 0 and table[i, 1] != 0:
            pairs += table[i, 2] * (table[i, 2] - 1)
        voxels += table[i, 2]
    return pairs, voxels


@njit(nogil=True, cache=True)
def _pairs_of_column(table, column):  # type: ignore[no-untyped-def]
    """Return the voxel pairs inside the objects of one labeling, and the objects' voxels."""
    sizes = _new_table(_FIRST_ROWS)
    used = 0
    for i in range(table.shape[0]):
        if table[i, 2] != 0 and table[i, column] != 0:
            # The second half of the key is not needed: 0 for every object.
            sizes, used = _add(sizes, used, table[i, column], np.int64(0), table[i, 2])
    pairs = 0
    voxels = 0
    for i in range(sizes.shape[0]):
        pairs += sizes[i, 2] * (sizes[i, 2] - 1)
        voxels += sizes[i, 2]
    return pairs, voxels
