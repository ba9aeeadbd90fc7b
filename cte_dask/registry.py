"""Resolving ``package.module:name`` from a bank into the thing it names.

Name what was probably meant when a key or name is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

__all__ = ["resolve", "unknown"]


def resolve(reference: str) -> Any:
    """Import what a reference names.

    Parameters
    ----------
    reference
        ``"package.module:name"``. Importing runs the module's code: check trust before.

    Raises
    ------
    ValueError
        If the module cannot be imported or has no such name.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{reference}: the module cannot be imported: {error}") from error
    except AttributeError:
        raise ValueError(f"{reference}: the module {module} has no {name!r}") from None


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
