"""Resolving ``package.module:name`` from a bank into the thing it names."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["resolve"]


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
