"""Why a model has no score at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cte_dask.results.skipped import TOLD
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    from cte_dask.results.score_table import ScoreTable

__all__ = ["UNSCORED", "why_unscored"]

UNSCORED = {**TOLD, "failed": "on which it failed", "absent": "not computed"}
"""Why tiles have no score, after their number, of one model."""


def why_unscored(scores: ScoreTable, model: int) -> str:
    """Tell why no tile of a model could be scored; empty if one was.

    Parameters
    ----------
    scores
        Tile scores.
    model
        Its number.
    """
    status = scores["status"][model]
    if (status == STATUS["scored"]).any():
        return ""
    tiles = {text: int((status == STATUS[s]).any(axis=0).sum()) for s, text in UNSCORED.items()}
    whys = (f"{number} {text}" for text, number in tiles.items() if number)
    return "no tile was scored: " + (", ".join(whys) or "there is none")
