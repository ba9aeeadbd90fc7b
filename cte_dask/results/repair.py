"""Going on with a score store that was damaged: what cannot be trusted is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cte_dask.results.damage import RESUME
from cte_dask.results.layout import AT_ONCE

if TYPE_CHECKING:
    from cte_dask.results.store import Scores

__all__ = ["check_sound", "damaged_blocks", "repair"]

SHOWN = 5


def damaged_blocks(scores: Scores, blocks: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the numbers of marked blocks that are not as they were written.

    Parameters
    ----------
    scores
        The store.
    blocks
        Numbers of the blocks to look at; None for all.
    """
    wanted = None if blocks is None else set(blocks)
    marked = [index for index in scores.marked() if wanted is None or index in wanted]
    damaged: list[int] = []
    for start in range(0, len(marked), AT_ONCE):
        group = marked[start : start + AT_ONCE]
        if not scores.are_sound(group):
            damaged += [index for index in group if not scores.are_sound([index])]
    return tuple(damaged)


def repair(
    scores: Scores, blocks: Sequence[int] | None = None, *, tell: Callable[[str], None]
) -> tuple[int, ...]:
    """Take the marks of damaged blocks away, so that they are scored again.

    Parameters
    ----------
    scores
        The store, opened to write.
    blocks
        Numbers of the blocks that are ours; None for all.
    tell
        Receives a line about them, if there are any.

    Returns
    -------
    tuple of int
        Their numbers.
    """
    damaged = damaged_blocks(scores, blocks)
    for index in damaged:
        scores.forget(index)
    if damaged:
        tell(f"{_listed(damaged)} of the score store: damaged, scored again")
    return damaged


def check_sound(scores: Scores, url: str) -> None:
    """Refuse to read a damaged store.

    Parameters
    ----------
    scores
        The store.
    url
        Where it is.

    Raises
    ------
    ValueError
        If blocks are damaged.
    """
    if damaged := damaged_blocks(scores):
        raise ValueError(f"{url}: {_listed(damaged)} damaged since written: {RESUME}")


def _listed(blocks: Sequence[int]) -> str:
    more = f" and {len(blocks) - SHOWN} more" if len(blocks) > SHOWN else ""
    return f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, blocks[:SHOWN]))}{more}"
