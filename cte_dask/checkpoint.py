"""Scoring a block once: what a store holds complete is not computed, nor written, again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from cte_dask.scores import DONE, open_scores, write_block

if TYPE_CHECKING:
    from cte_dask.scoring import BlockScores

__all__ = ["score_once"]


def score_once(
    url: str, index: int, models: tuple[str, ...], compute: Callable[[], BlockScores]
) -> BlockScores:
    """Return a block's scores, computed and written unless the store has them complete.

    A worker may die between a block's mark and telling the scheduler, and a client that dies
    leaves tasks behind that go on: the same block is then asked for again, with the first answer
    already there, or about to be. Of two that compute it at once, the first one's stays.

    Parameters
    ----------
    url
        The score store.
    index
        Number of the block.
    models
        Names of the models, in the order of the numbers.
    compute
        Scores the block.

    Raises
    ------
    OSError
        If the store's disk is full; blocks that are complete stay, the run can be resumed.
    """
    if (known := _complete(url, index)) is not None:
        return known
    scores = compute()
    if _complete(url, index) is None:
        try:
            write_block(url, scores, models)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            told = f"no space left for {url}: make room, then go on with --resume"
            raise OSError(errno.ENOSPC, told) from error
    return scores


def _complete(url: str, index: int) -> BlockScores | None:
    from cte_dask.scoring import BlockScores

    scores = open_scores(url)
    if scores.mark(index) != DONE["complete"]:
        return None
    return BlockScores(index, scores.block(index), {}, scores.overlaps(index))
