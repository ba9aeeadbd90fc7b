"""Tiles that a ranking could not count, by what happened to them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.results.layout import DONE

if TYPE_CHECKING:
    from cte_dask.results.store import Scores

__all__ = ["TOLD", "skipped"]

TOLD = {
    "masked": "outside the mask",
    "constant": "of one value throughout (padding, or chunks that are not stored)",
    "non_finite_input": "with NaN or infinite voxels in the target",
    "non_finite_output": "with NaN in a prediction",
    "failed": "in blocks that failed, for one model or more",
}
"""What a status means, after a number of tiles."""


def skipped(scores: Scores) -> dict[str, int]:
    """Count the tiles of a store that some model was not scored on, a block at a time.

    Parameters
    ----------
    scores
        The score store.

    Returns
    -------
    dict
        Status (a key of `TOLD`) to number of tiles; statuses that no tile has are left out.
    """
    counts: Counter[str] = Counter()
    for index in np.flatnonzero(scores.done() != DONE["missing"]):
        tiles = scores.block(int(index))
        for name in TOLD:
            counts[name] += int(tiles.has_status(name).any(axis=(0, 1)).sum())
    return {name: number for name, number in counts.items() if number}
