"""Traces shared by models of one architecture.

Tracing a network costs more than loading it, and models of a bank often differ in nothing but their
weights. A trace is kept with the names of the weights it uses, and the form in which it ran; for
the next model of the same code and batch the same graphs are filled with that model's weights. They
are proven against the plain pass before they are used, like any other.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from cte_dask.inference.graph.paths import Form, Split
from cte_dask.inference.graph.places import Core
from cte_dask.inference.graph.private_torch import LazyGraph
from cte_dask.inference.graph.refill import Recipe, of_many, rewritten

__all__ = [
    "Key",
    "Known",
    "form_for_other",
    "form_of",
    "keep",
    "keep_form",
    "keep_recipes",
    "keeps",
    "recall",
    "refilled",
]

Key = tuple[object, ...] | None
Halves = tuple[GraphModule, GraphModule]

_MOST = 32


@dataclass(frozen=True, slots=True)
class Known:
    """A cut trace, filled with the weights of one model; as `FeaturePath` otherwise."""

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    halves: Halves


@dataclass(frozen=True, slots=True)
class _StoredGraph:
    """A graph whose constants are weights by name; graphs hold no weights themselves."""

    graph: Graph
    weights: dict[str, str]

    def filled(self, named: dict[str, Tensor]) -> GraphModule:
        weights = {target: named[name] for target, name in self.weights.items()}
        return of_many(LazyGraph(weights, self.graph))


_KEPT: OrderedDict[
    Key, tuple[tuple[str, ...], tuple[int, ...], tuple[_StoredGraph, _StoredGraph]]
] = OrderedDict()


def recall(key: Key, module: nn.Module) -> Known | None:
    """Return the trace kept under a key, filled with a module's weights; None if there is none.

    Parameters
    ----------
    key
        Network code, layers, batch shape, dtype and device; None asks for nothing.
    module
        A network of that code.
    """
    if key is None or key not in _KEPT:
        return None
    _KEPT.move_to_end(key)
    layers, channels, (prefix, suffix) = _KEPT[key]
    named = _named(module)
    return Known(layers, channels, (prefix.filled(named), suffix.filled(named)))


def keeps(key: Key) -> bool:
    """Tell whether a trace is kept under a key, or there is no key to keep it under."""
    return key is None or key in _KEPT


def keep(
    key: Key,
    module: nn.Module,
    layers: tuple[str, ...],
    channels: tuple[int, ...],
    halves: Halves,
) -> None:
    """Keep the graphs traced from a module, unless they use anything that is no weight of it."""
    if keeps(key):
        return
    names = {id(tensor): name for name, tensor in _named(module).items()}
    prefix, suffix = (_half(half, names) for half in halves)
    if prefix is None or suffix is None:
        return
    _KEPT[key] = layers, channels, (prefix, suffix)
    while len(_KEPT) > _MOST:
        _KEPT.popitem(last=False)


_FORMS: OrderedDict[tuple[Key, str], Form] = OrderedDict()
_ANY = "any"


def form_of(key: Key, core: Core | None) -> Form | None:
    """Return how networks of a key run, for a core; None if it is not known.

    It depends on how a network is built; whether its numbers are right, on its weights too.
    """
    return None if key is None else _FORMS.get((key, str(core)))


def form_for_other(key: Key) -> Form | None:
    """Return how networks of a key run for some core; None if it is not known."""
    return None if key is None else _FORMS.get((key, _ANY))


def keep_form(key: Key, core: Core | None, form: Form) -> None:
    """Keep how a network of a key was found to run, for a core."""
    if key is None:
        return
    _FORMS[key, str(core)] = form
    if core is not None:
        _FORMS[key, _ANY] = form
    while len(_FORMS) > _MOST:
        _FORMS.popitem(last=False)


def keep_recipes(path: Split) -> None:
    """Keep how a trace was folded, fused and split, for as long as its graphs are kept."""
    if path.traced is None:
        return
    kind = "fused" if path.once is None else "once"
    prefix, suffix = path.traced
    parts = [(path.prefix, prefix), (path.suffix, suffix)]
    parts += [] if path.once is None else [(path.once, suffix)]
    recipes = [(Recipe.of(module), source) for module, source in parts]
    if all(recipe.fits(source) for recipe, source in recipes):
        rewritten(prefix.graph)[kind] = tuple(recipe for recipe, _ in recipes)


def refilled(kind: str, split: Split) -> Split | None:
    """Return a trace folded, fused and split as before; None if that is not known.

    Parameters
    ----------
    kind
        Of its `cte_dask.inference.graph.paths.Form`.
    split
        The trace, filled with weights.
    """
    recipes: tuple[Recipe, ...] = rewritten(split.prefix.graph).get(kind, ())
    if not recipes:
        return None
    of_prefix, of_suffix, *rest = recipes
    return replace(
        split,
        prefix=of_prefix.filled(split.prefix),
        suffix=of_suffix.filled(split.suffix),
        once=rest[0].filled(split.suffix) if rest else None,
        traced=(split.prefix, split.suffix),
    )


def _half(half: GraphModule, names: dict[int, str]) -> _StoredGraph | None:
    weights = {}
    for node in half.graph.nodes:
        if node.op == "get_attr":
            name = names.get(id(getattr(half, node.target, None)))
            if name is None:
                return None
            weights[node.target] = name
    return _StoredGraph(of_many(half).graph, weights)


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
