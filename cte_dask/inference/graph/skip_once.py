"""Skip connections convolved once: the half of a decoder's convolution that no mask reaches.

A decoder joins a skip connection and what comes from below, and convolves both. A convolution is
linear: its sum over the skip's channels is the same in every pass under feature perturbation. It is
taken out of the passes, and they add it; the joined array is never made. Sums are rounded in
another order than in the plain network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from cte_dask.inference.graph.private_torch import CONVOLUTION, CONVOLUTION_SUM, LazyGraph
from cte_dask.inference.graph.refill import constants_of
from cte_dask.inference.graph.weights import Held, Made, note, notes_of, weight_of

__all__ = ["halved"]

_ATEN = torch.ops.aten
_CHANNELS = 1
_TRANSPOSED, _GROUPS = 6, 8
_FUSED_GROUPS, _FUSED_NAME = 6, 7


@dataclass(frozen=True, slots=True)
class _SplitConvolution:
    """A convolution of joined arrays, some of which come straight from the state."""

    node: Node
    early: tuple[Node, ...]
    late: tuple[Node, ...]
    weights: tuple[Made, Made]

    @property
    def geometry(self) -> tuple[Any, ...]:
        """Padding, stride and dilation."""
        if self.node.target is CONVOLUTION:
            return self.node.args[3:6]
        stride, padding, dilation = self.node.args[3:6]
        return padding, stride, dilation


def halved(suffix: GraphModule) -> tuple[GraphModule, GraphModule] | None:
    """Take out of a suffix the convolutions of what its state holds.

    Parameters
    ----------
    suffix
        (*state, *masks) -> y, its state the placeholders ``state_…``; left as it is.

    Returns
    -------
    tuple of GraphModule, or None
        (*state) -> state', run once, and (*state', *masks) -> y, run once a pass; None where no
        convolution can be split.
    """
    found = {n: h for n in suffix.graph.nodes if (h := _half(suffix, n)) is not None}
    # an array that anything else uses must be joined all the same
    halves = [h for node, h in found.items() if all(user in found for user in node.args[0].users)]
    if not halves:
        return None
    passes, state = _passes(suffix, halves)
    return _once(suffix, halves, state), passes


def _half(module: GraphModule, node: Node) -> _SplitConvolution | None:
    fused = node.target is CONVOLUTION
    if not fused and (node.target is not _ATEN.convolution.default or node.args[_TRANSPOSED]):
        return None
    joined, weight = node.args[0], weight_of(module, node.args[1])
    if (
        weight is None
        or node.args[_FUSED_GROUPS if fused else _GROUPS] != 1
        or (fused and node.args[_FUSED_NAME] not in {"none", "relu"})
        or not isinstance(joined, Node)
        or joined.target is not _ATEN.cat.default
        or joined.args[1:] != (_CHANNELS,)
    ):
        return None
    inputs: tuple[Node, ...] = tuple(joined.args[0])  # type: ignore[arg-type]
    extents = [map_.meta["val"].shape[_CHANNELS] for map_ in inputs]
    places = range(len(inputs))
    early, late = (tuple(p for p in places if _is_state(inputs[p]) is s) for s in (True, False))
    if not early or not late:
        return None
    whole = partial(_pieces, weight=str(node.args[1].target), extents=extents)  # type: ignore[union-attr]
    return _SplitConvolution(
        node,
        tuple(inputs[p] for p in early),
        tuple(inputs[p] for p in late),
        (partial(whole, places=early), partial(whole, places=late)),
    )


def _is_state(node: Node) -> bool:
    return node.op == "placeholder" and node.name.startswith("state_")


def _pieces(held: Held, *, weight: str, extents: list[int], places: tuple[int, ...]) -> Tensor:
    """Return the weights of some of the arrays that a convolution joins, in the layout of all."""
    like = held(weight)
    pieces = torch.split(like, extents, dim=1)
    joined = torch.cat([pieces[place] for place in places], dim=1)
    last = torch.channels_last if like.ndim == 4 else torch.channels_last_3d
    layout = last if like.is_contiguous(memory_format=last) else torch.contiguous_format
    return joined.contiguous(memory_format=layout)


def _passes(suffix: GraphModule, halves: list[_SplitConvolution]) -> tuple[GraphModule, list[Node]]:
    """Return what runs once a pass, and the nodes of the state that it still wants."""
    graph, made = Graph(), notes_of(suffix)
    numbers = {half.node: i for i, half in enumerate(halves)}
    state = [n for n in suffix.graph.nodes if _is_state(n)]
    copies = {node: _input(graph, node.name, node) for node in state}
    sums = [_input(graph, f"state_half_{i}", half.node) for i, half in enumerate(halves)]
    for node in suffix.graph.nodes:
        if node in numbers:
            number = numbers[node]
            copies[node] = _summed(graph, made, halves[number], copies, sums[number])
        elif node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    module = _module(suffix, graph, made)
    graph.eliminate_dead_code()  # which asks the module about those that it calls
    wanted = [node for node in state if copies[node].users]
    for node in state:
        if node not in wanted:
            graph.erase_node(copies[node])
    return module, wanted


def _summed(
    graph: Graph,
    made: dict[str, Made],
    half: _SplitConvolution,
    copies: dict[Node, Node],
    partial: Node,
) -> Node:
    """Convolve what comes from below, and add what the skip gave."""
    x = _concatenated(graph, [copies[n] for n in half.late])
    weight = graph.get_attr(name := f"_late_{half.node.name}")
    made[name] = half.weights[1]
    if half.node.target is CONVOLUTION:
        activation = "relu" if half.node.args[_FUSED_NAME] == "relu" else None
        arguments = (*half.geometry, 1, "add", 1, activation, [], None)
        result = graph.call_function(CONVOLUTION_SUM, (x, partial, weight, None, *arguments))
    else:
        convolved = (x, weight, None, *half.node.args[3:])
        rest = graph.call_function(_ATEN.convolution.default, convolved)
        rest.meta = dict(half.node.meta)
        result = graph.call_function(_ATEN.add.Tensor, (rest, partial))
    result.meta = dict(half.node.meta)
    return result


def _once(suffix: GraphModule, halves: list[_SplitConvolution], state: list[Node]) -> GraphModule:
    """Return what runs once: (*state) -> what the passes want of it, then the halves."""
    graph, made = Graph(), notes_of(suffix)
    placeholders = [n for n in suffix.graph.nodes if _is_state(n)]
    copies = {node: _input(graph, node.name, node) for node in placeholders}
    outputs = [copies[node] for node in state]
    for half in halves:
        x = _concatenated(graph, [copies[n] for n in half.early])
        weight = graph.get_attr(name := f"_early_{half.node.name}")
        made[name] = half.weights[0]
        bias = half.node.args[2]
        offset = graph.get_attr(str(bias.target)) if isinstance(bias, Node) else None
        target, more = CONVOLUTION, (*half.geometry, 1, "none", [], "")
        if half.node.target is not CONVOLUTION:
            padding, stride, dilation = half.geometry
            target = _ATEN.convolution.default
            more = (stride, padding, dilation, False, [0] * len(padding), 1)
        outputs.append(graph.call_function(target, (x, weight, offset, *more)))
        outputs[-1].meta = dict(half.node.meta)
    graph.output(tuple(outputs))
    return _module(suffix, graph, made)


def _input(graph: Graph, name: str, like: Node) -> Node:
    placeholder = graph.placeholder(name)
    placeholder.meta = dict(like.meta)
    return placeholder


def _concatenated(graph: Graph, nodes: list[Node]) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    joined = graph.call_function(_ATEN.cat.default, (nodes, 1))
    joined.meta = dict(nodes[0].meta)  # of the same extent
    return joined


def _module(suffix: GraphModule, graph: Graph, made: dict[str, Made]) -> GraphModule:
    """Return a graph with the constants that it has of a suffix, and those made of them."""
    held = partial(getattr, suffix)
    new = {name: one(held) for name, one in made.items() if not hasattr(suffix, name)}
    module = LazyGraph(constants_of(suffix) | new, graph)
    for name, one in made.items():
        note(module, name, one)
    return module
