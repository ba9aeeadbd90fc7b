"""The weights of a graph: which node stands for one, and of which others it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["Held", "Made", "note", "notes_of", "weight_of"]

Held = Callable[[str], Any]
"""A weight, or a module that holds one, by its name."""
Made = Callable[[Held], Any]
"""What makes it of others."""

_NOTES = "made_of"


def note(module: GraphModule, name: str, made: Made) -> None:
    """Note how a weight of a module was made of others that it has, or had."""
    module.meta.setdefault(_NOTES, {})[name] = made


def notes_of(module: GraphModule) -> dict[str, Made]:
    """Return what was noted in a module, by the names of its weights."""
    return dict(module.meta.get(_NOTES, {}))


def weight_of(module: GraphModule, node: Any) -> Tensor | None:
    """Return the tensor that a node of a graph stands for; None if it is no constant."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    constant = getattr(module, str(node.target), None)
    return constant if isinstance(constant, Tensor) else None
