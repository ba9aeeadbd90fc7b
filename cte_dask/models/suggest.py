"""Name what was probably meant when a key or name is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["unknown"]


def unknown(what: str, given: object, accepted: Iterable[str]) -> str:
    """Return one line naming an unknown word, the nearest accepted one and all accepted ones.

    Parameters
    ----------
    what
        What the word should have been: ``"key"``, ``"format"``, …
    given
        The unknown word.
    accepted
        The words that would have been accepted.

    Examples
    --------
    >>> unknown("key", "hallo", ["halo", "axes"])
    "unknown key 'hallo', did you mean 'halo'? (accepted: axes, halo)"
    """
    words = sorted(accepted)
    near = get_close_matches(str(given), words, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {str(given)!r}{hint} (accepted: {', '.join(words)})"
