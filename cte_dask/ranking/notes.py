"""What a user should know of a model's score beside the number, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    from cte_dask.results.score_table import ScoreTable

__all__ = ["ONE_REGION", "noted", "partly"]

ONE_REGION = "no interval: one region alone has a score"


def noted(*notes: str) -> str:
    """Return notes as one, empty ones left out."""
    return "; ".join(filter(None, notes))


def partly(model: int, scores: ScoreTable) -> str:
    """Tell of a model that was not scored on every block that others were."""
    requested = (scores["status"][model] != STATUS["absent"]).any(axis=0)
    if requested.all():
        return ""
    blocks = scores["block"]
    number, total = len(np.unique(blocks[requested])), len(np.unique(blocks))
    return f"beaten: scored on {number} of {total} blocks, its CTE is of those"
