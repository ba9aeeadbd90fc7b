"""Families of things by name: each name stands for ``"module:attribute"``, imported when needed.

A family (metrics, perturbations, model formats, segmenters, volume formats, clusters) is one
`Registry`: adding to it is one file and one line, and every family takes
``"your_package.module:Thing"`` of somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["Registry", "checked", "is_reference", "resolve", "unknown"]

T = TypeVar("T")

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class Registry(Mapping[str, str]):
    """The things of one family: their names, and where each is defined.

    Parameters
    ----------
    family
        What one of them is, for messages: ``"metric"``.
    references
        Name to ``"module:attribute"``, in the order in which they are listed.

    Examples
    --------
    >>> metrics = Registry("metric", {"nhd": "cte_dask.consistency.binary:NHD"})
    >>> metrics.load("nhd").name
    'nhd'
    >>> metrics.load("ndh")
    Traceback (most recent call last):
        ...
    ValueError: unknown metric 'ndh', did you mean 'nhd'? (accepted: nhd) or \
'your_package.module:Thing'
    """

    def __init__(self, family: str, references: Mapping[str, str]) -> None:
        self.family = family
        self._references = dict(references)

    def __getitem__(self, name: str) -> str:
        return self._references[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)

    def check(self, name: str) -> None:
        """Refuse what is neither a name of the family nor a reference; nothing is imported.

        Raises
        ------
        ValueError
            Naming the nearest name and all of them.
        """
        if name not in self and not is_reference(name):
            message = unknown(self.family, name, self)
            raise ValueError(f"{message} or 'your_package.module:Thing'")

    def load(self, name: str) -> Any:
        """Import the thing of a name, or the one from outside that ``"module:attribute"`` names.

        Importing runs the module's code: check trust before.

        Raises
        ------
        ValueError
            If the name is unknown, or what it stands for cannot be imported.
        """
        self.check(name)
        try:
            return resolve(self.get(name, name))
        except ValueError as error:
            hint = _hint(name.partition(":")[0], self)
            raise ValueError(f"{self.family} {error}{hint}") from error

    def split(self, text: str) -> tuple[str, list[str]]:
        """Cut ``name:rest:…`` or ``module:attribute:rest:…`` into the name and the rest.

        Examples
        --------
        >>> kinds = Registry("perturbation", {"dropout": "cte_dask.perturb.dropout:Dropout"})
        >>> kinds.split("dropout:0.2:fixed"), kinds.split("mine:stripes:0.2")
        (('dropout', ['0.2', 'fixed']), ('mine:stripes', ['0.2']))
        """
        name, *rest = text.split(":")
        if name not in self and rest and rest[0].isidentifier():
            name = f"{name}:{rest.pop(0)}"
        return name, rest


def checked(thing: object, kind: type[T], name: str) -> T:
    """Return what a name stands for, if it is of the kind that its family holds.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(thing, kind):
        raise TypeError(f"{name!r} is a {type(thing).__qualname__}, not a {kind.__name__}")
    return thing


def is_reference(text: str) -> bool:
    """Whether a text has the form ``"package.module:name"``."""
    return _REFERENCE.fullmatch(text) is not None


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
    place, _, name = reference.partition(":")
    try:
        module = import_module(place)
    except ImportError as error:
        raise ValueError(f"{reference!r} cannot be imported: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        message = f"{reference!r} cannot be imported: {place} has no {name!r}"
        raise ValueError(message) from None


def unknown(what: str, word: object, accepted: Iterable[str]) -> str:
    """Return one line naming an unknown word, the nearest accepted one and all accepted ones.

    Parameters
    ----------
    what
        What the word should have been: ``"key"``, ``"format"``, …
    word
        The unknown word.
    accepted
        The words that would have been accepted.

    Examples
    --------
    >>> unknown("key", "hallo", ["halo", "axes"])
    "unknown key 'hallo', did you mean 'halo'? (accepted: axes, halo)"
    """
    words = sorted(accepted)
    return f"unknown {what} {str(word)!r}{_hint(word, words)} (accepted: {', '.join(words)})"


def _hint(word: object, words: Iterable[str]) -> str:
    near = get_close_matches(str(word), list(words), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
