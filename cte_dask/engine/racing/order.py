"""The order in which blocks are read: random, spread over the target, in rounds.

Blocks are put in a row along a space-filling curve. Each round cuts the row of those still unread
into as many stretches as it has blocks, and draws one block from each: neighbours on the curve are
neighbours in space, so every round looks at the whole target, and any block may come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FIRST_ROUND", "ROUND", "Round", "rounds"]

FIRST_ROUND = 4
ROUND = 4


@dataclass(frozen=True, slots=True)
class Round:
    """Blocks that are read together, one from each stretch of the row.

    Parameters
    ----------
    blocks
        Their numbers.
    weights
        Blocks in the stretch of each, over the mean of the stretches: near 1, mean 1.
    unread
        Blocks of the target that were unread before the round, those of the round among them.
    """

    blocks: tuple[int, ...]
    weights: tuple[float, ...]
    unread: int


def rounds(
    counts: tuple[int, int, int],
    *,
    seed: int,
    first: int = FIRST_ROUND,
    size: int = ROUND,
    most: int | None = None,
) -> Iterator[Round]:
    """Yield all blocks of a grid in a seeded, spatially stratified random order.

    Parameters
    ----------
    counts
        Blocks along z, y and x; they are numbered in C order.
    seed
        Seed of the draws.
    first, size
        Blocks in the first round and in every other one; the last may be smaller.
    most
        Stop after so many blocks; None for all of them.

    Yields
    ------
    Round
        Each block is in one round at most.

    Raises
    ------
    ValueError
        If a round would hold no block.
    """
    if min(first, size) < 1:
        raise ValueError(f"a round needs at least one block, not {min(first, size)}")
    rng = np.random.default_rng(seed)
    row, number = _along_the_curve(counts), first
    remaining = len(row) if most is None else min(most, len(row))
    while remaining:
        number = min(number, remaining)
        edges = np.linspace(0, len(row), number + 1).astype(np.int64)
        lengths = np.diff(edges)  # they differ by one at most: weights make up for it
        places = edges[:-1] + rng.integers(lengths)
        weights = lengths * len(lengths) / len(row)
        yield Round(tuple(row[places].tolist()), tuple(weights.tolist()), len(row))
        row, number, remaining = np.delete(row, places), size, remaining - number


def _along_the_curve(counts: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return block numbers in Z-order (Morton 1966): bits of the positions interleaved."""
    positions = np.indices(counts).reshape(3, -1)
    code = np.zeros(positions.shape[1], np.int64)
    for bit in range(max(counts).bit_length()):
        for axis in range(3):
            # z is the highest of each three bits, so that equal bits keep C order
            code |= ((positions[axis] >> bit) & 1) << (3 * bit + 2 - axis)
    order: NDArray[np.int64] = np.argsort(code, kind="stable")
    return order
