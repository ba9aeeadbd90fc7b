"""One line for an error: what a ledger, a report and a terminal show of it."""

from __future__ import annotations

__all__ = ["reason"]

LONGEST = 400


def reason(error: BaseException) -> str:
    """Return an error in one line, with its type where the text alone would puzzle.

    Examples
    --------
    >>> reason(ValueError("tile is too large"))
    'tile is too large'
    >>> reason(KeyError("weight"))
    "KeyError: 'weight'"
    """
    text = " ".join(str(error).split())
    if not text or not _speaks_for_itself(error):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _speaks_for_itself(error: BaseException) -> bool:
    """Whether the message is one of ours, or the system's own words for a file that is missing."""
    ours = type(error).__module__.startswith("cte_dask")
    return ours or type(error) is ValueError or isinstance(error, OSError)
