"""Why a run is incomplete: what happened, what it means for the ranking, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["incomplete_lines", "number_of"]


def incomplete_lines(result: Mapping[str, Any], excluded: Sequence[str]) -> list[str]:
    """Return a line for each reason that a run is incomplete; none if it is complete.

    Parameters
    ----------
    result
        Content of ``ranking.json``.
    excluded
        Names of the models that were left out.
    """
    if result["complete"]:
        return []
    blocks = result["blocks"]
    total, failed = blocks.get("sampled", blocks["total"]), blocks["failed"]
    left = 0 if "sampled" in blocks else total - blocks["done"] - failed
    lines = []
    if left:
        lines.append(
            f"{number_of(left, 'block')} of {total} {_was(left)} not scored: the ranking is of the "
            f"others; --resume scores {_them(left)}"
        )
    if failed:
        lines.append(
            f"{number_of(failed, 'block')} of {total} failed for at least one model, which is "
            f"ranked without {_them(failed)}: cte status tells why, --resume tries again"
        )
    if excluded:
        lines.append(
            f"{number_of(len(excluded), 'model')} of the bank {_was(len(excluded))} excluded and "
            f"{'has' if len(excluded) == 1 else 'have'} no rank ({', '.join(excluded)}): put right "
            f"or take out what the table says, then rank into another --out or with --overwrite"
        )
    return [f"incomplete: {line}" for line in lines]


def number_of(count: int, noun: str) -> str:
    """Return a number of things in words.

    Examples
    --------
    >>> number_of(1, "block"), number_of(2, "block")
    ('1 block', '2 blocks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
