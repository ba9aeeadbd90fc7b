"""The pair counts of `contingency` by sorting runs, in plain array functions.

On the GPU (CuPy) this is the implementation, not yet run on a GPU: the tests run the same lines
under NumPy. Under NumPy it is the check of the hash table and its stand-in without Numba. The tile
comes in chunks, each folded into the table of pairs before the next is read, so that memory follows
the chunk and the number of pairs of objects that meet.
"""

from __future__ import annotations

from collections.abc import Iterable

from cte_dask.arrays import Array, namespace

__all__ = ["CHUNK_VOXELS", "distinct_rows", "pair_sums"]

Table = tuple[Array, Array, Array]

CHUNK_VOXELS = 2**22
"""Voxels folded in by one call: enough to keep a GPU busy, few beside a large tile."""


def pair_sums(chunks: Iterable[tuple[Array, Array]]) -> tuple[int, int, int, int, int, int]:
    """Count pairs in NumPy or CuPy labels.

    Parameters
    ----------
    chunks
        Reference and perturbed ids of the same voxels, flat int64; 0 is background.

    Returns
    -------
    tuple of int
        The fields of `PairCounts` but for n_voxels.
    """
    table: Table | None = None
    for reference, perturbed in chunks:
        table = _merged(table, _runs(reference, perturbed))
    if table is None:
        return 0, 0, 0, 0, 0, 0
    r, p, voxels = table
    in_r, in_p = r != 0, p != 0
    t, s = _totals(r[in_r], voxels[in_r]), _totals(p[in_p], voxels[in_p])
    common, pairs_p, pairs_r = (_pairs(sizes) for sizes in (voxels[in_r & in_p], s, t))
    return common, pairs_p, pairs_r, int(voxels.sum()), int(t.sum()), int(s.sum())


def distinct_rows(rows: Array) -> tuple[Array, Array]:
    """Return the distinct rows of a matrix, ascending, and how many rows are equal to each.

    CuPy's own ``unique`` compares rows two at a time, and asks the host after each.

    Parameters
    ----------
    rows
        NumPy or CuPy integers (row, column).

    Returns
    -------
    tuple of ndarray
        Rows, and counts in int64.
    """
    xp = namespace(rows)
    if not len(rows):
        return rows, xp.zeros(0, dtype=xp.int64)
    # the last key sorts first
    rows = rows[xp.lexsort(rows.T[::-1])]
    starts = _starts(*rows.T)
    return rows[starts], xp.diff(starts, append=xp.asarray([len(rows)]))


def _pairs(sizes: Array) -> int:
    return int((sizes * (sizes - 1)).sum())


def _runs(r: Array, p: Array) -> Table:
    """Return the runs of equal pairs of ids in voxel order, except background in both."""
    xp = namespace(r, p)
    starts = _starts(r, p)
    lengths = xp.diff(starts, append=xp.asarray([r.size]))
    r, p = r[starts], p[starts]
    foreground = (r != 0) | (p != 0)
    return r[foreground], p[foreground], lengths[foreground]


def _merged(table: Table | None, more: Table) -> Table:
    """Add runs to a table of pairs; equal pairs become one row."""
    xp = namespace(*more)
    rows = more if table is None else map(xp.concatenate, zip(table, more, strict=True))
    r, p, voxels = rows
    # The last key sorts first, so rows are ordered by reference id, then by perturbed id.
    order = xp.lexsort(xp.stack((p, r)))
    r, p, voxels = r[order], p[order], voxels[order]
    starts = _starts(r, p)
    return r[starts], p[starts], _sums_from(starts, voxels)


def _totals(ids: Array, voxels: Array) -> Array:
    """Return the voxels of each id."""
    xp = namespace(ids)
    order = xp.argsort(ids)
    return _sums_from(_starts(ids[order]), voxels[order])


def _starts(*columns: Array) -> Array:
    """Return 0 and the positions where any column differs from the row before."""
    xp = namespace(*columns)
    changes = xp.ones(columns[0].shape, dtype=bool)
    changes[1:] = False
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    starts: Array = xp.flatnonzero(changes)
    return starts


def _sums_from(starts: Array, voxels: Array) -> Array:
    """Return the sum of each stretch between neighbouring starts, exact in int64."""
    xp = namespace(starts, voxels)
    # Differences of the running sum: on integers they lose nothing.
    running = xp.concatenate((xp.zeros(1, dtype=xp.int64), xp.cumsum(voxels)))
    ends = xp.concatenate((starts[1:], xp.asarray([voxels.size])))
    sums: Array = running[ends] - running[starts]
    return sums
