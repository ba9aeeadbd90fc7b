"""Checksums of a score store: whether a block's numbers are those that were written for it.

A codec tells that a chunk was damaged, not that it is another block's, an older one's or gone. So a
row of `SUMS` vouches for each block: its number and its mark, and a hash of each array.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HASHED", "SUMS", "SUM_COLUMNS", "attributes_sum", "row_of", "vouched"]

SUMS = "sums"
"""Array that holds them, uint64 (block, column); stores of before have none."""
HASHED = ("values", "votes", "causes", "precision")
SUM_COLUMNS = ("block", "mark", *HASHED)


def attributes_sum(attributes: Mapping[str, Any]) -> str:
    """Return a checksum of a group's attributes."""
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()[:16]


def row_of(block: int, mark: int, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
    """Return what vouches for a block.

    Parameters
    ----------
    block, mark
        Its number and its mark.
    arrays
        Its chunks by name, of `HASHED`; those that were not written are left out.

    Returns
    -------
    ndarray of uint64, shape (column,)
        `SUM_COLUMNS`; the block's number from 1, for 0 is what nobody has written.
    """
    hashes = [_hash(arrays[name]) if name in arrays else 0 for name in HASHED]
    return np.array([block + 1, mark, *hashes], np.uint64)


def vouched(row: NDArray[np.uint64], block: int, mark: int) -> tuple[str, ...] | None:
    """Return the arrays that a row vouches for; None if it is another block's or mark's."""
    if int(row[0]) != block + 1 or int(row[1]) != mark:
        return None
    return tuple(name for name, hash_ in zip(HASHED, row[2:], strict=True) if hash_)


def _hash(array: NDArray[Any]) -> int:
    """Return a hash of an array that is not 0; all NaN are alike, as zarr's fill value is."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.nan, array)
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
