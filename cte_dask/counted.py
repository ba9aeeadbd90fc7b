"""What a ranking counts of a score store: all of it, or what an anytime run has taken in.

An anytime run reads some blocks ahead of its decision, and scores models on them that had been
beaten before. None of that may depend on the number of workers: it is kept, but not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cte_dask.scores import Scores

__all__ = ["count", "count_all", "counted"]

NOTE = "counted"


def count(
    scores: Scores, blocks: Sequence[int], models: Sequence[int], *, first: Sequence[str] = ()
) -> Scores:
    """Note in a store what its ranking counts, and return that part of it.

    Parameters
    ----------
    scores
        The store.
    blocks
        Numbers of the blocks, in the order in which they were drawn.
    models
        On how many of them, from the first, each model is counted.
    first
        Models that are proven to be the best, best first.
    """
    note: Any = {"blocks": list(blocks), "models": list(models), "first": list(first)}
    scores.group.attrs.update({NOTE: note})
    return counted(scores)


def count_all(scores: Scores) -> Scores:
    """Note that the ranking counts the whole store, and return that."""
    if NOTE in scores.group.attrs:
        del scores.group.attrs[NOTE]
    return replace(scores, only=None, first=())


def counted(scores: Scores) -> Scores:
    """Return the part of a store that its ranking counts."""
    note = dict(scores.group.attrs).get(NOTE)
    if not isinstance(note, dict):
        return replace(scores, only=None, first=())
    models, blocks = np.asarray(note["models"]), note["blocks"]
    only = {int(block): models > number for number, block in enumerate(blocks)}
    return replace(scores, only=only, first=tuple(note["first"]))
