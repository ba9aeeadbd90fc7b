"""One line for an error: what a ledger, a report and a terminal show of it."""

from __future__ import annotations

__all__ = ["reason"]


def reason(error: BaseException) -> str:
    """Return the first line of an error, with its type where the text alone would puzzle.

    Examples
    --------
    >>> reason(ValueError("tile is too large"))
    'tile is too large'
    >>> reason(KeyError("weight"))
    "KeyError: 'weight'"
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    plain = isinstance(error, (ValueError, OSError))
    return lines[0] if plain else f"{type(error).__name__}: {lines[0]}"
