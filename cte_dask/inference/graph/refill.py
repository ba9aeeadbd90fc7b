"""Graphs of one architecture with the weights of another network: the work on a graph done once.

Folding and splitting rewrite a graph and make new weights of those that it was traced with. Which
weights, and how, is noted in the module (`note`); a `Recipe` holds that without any weights, and
fills the rewritten graph, already compiled, for the next network of the same architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

from torch.fx import Graph, GraphModule

from cte_dask.inference.graph.private_torch import LazyGraph, share_code
from cte_dask.inference.graph.weights import Made, notes_of

__all__ = ["Recipe", "constants_of", "of_many", "rewritten"]

_REWRITTEN: WeakKeyDictionary[Graph, dict[object, Any]] = WeakKeyDictionary()


def rewritten(graph: Graph) -> dict[object, Any]:
    """Return what was written of a graph so far, by what was asked for: recipes hold it.

    Networks of one architecture share their graphs. What is kept here is forgotten with the graph
    that it was written of, and refers to nothing of it.
    """
    return _REWRITTEN.setdefault(graph, {})


def constants_of(module: GraphModule) -> dict[str, Any]:
    """Return the constants that a module's graph uses, by name."""
    return {name: getattr(module, name) for name in _names(module.graph)}


def _names(graph: Graph) -> list[str]:
    used = (n for n in graph.nodes if n.op in {"get_attr", "call_module"})
    return list(dict.fromkeys(str(node.target) for node in used))


def of_many(module: GraphModule) -> GraphModule:
    """Return a module whose graph is kept for others: it no longer keeps this one's weights."""
    module.graph.owning_module = None
    return module


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a rewritten graph is filled with weights.

    Parameters
    ----------
    graph
        The graph.
    kind
        The class of its first module, which has its code once that has run.
    made
        How its weights are made of those it was traced with; others are those.
    """

    graph: Graph
    kind: type[GraphModule]
    made: Mapping[str, Made]

    @classmethod
    def of(cls, module: GraphModule) -> Recipe:
        """Return how a module was made; it keeps no weights."""
        return cls(of_many(module).graph, type(module), notes_of(module))

    def fits(self, source: GraphModule) -> bool:
        """Tell whether all weights are those of a trace, or known to be made of them."""
        return all(name in self.made or hasattr(source, name) for name in _names(self.graph))

    def filled(self, source: GraphModule) -> GraphModule:
        """Return the graph with the weights that are made of those of a trace."""
        values: dict[str, Any] = {}
        held = partial(self._held, source, values)
        module = LazyGraph({name: held(name) for name in _names(self.graph)}, self.graph)
        share_code(module, self.kind)
        return of_many(module)

    def _held(self, source: GraphModule, values: dict[str, Any], name: str) -> Any:
        if name not in values:
            made = self.made.get(name)
            held = partial(self._held, source, values)
            values[name] = attrgetter(name)(source) if made is None else made(held)
        return values[name]
