"""Cutting a traced network where masks enter: what no mask reaches, and the rest."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial

import torch
from torch.fx import Graph, GraphModule, Node

from cte_dask.inference.graph.private_torch import LazyGraph

__all__ = ["UnreachedError", "cut", "insert_masks", "named_node"]


class UnreachedError(ValueError):
    """No mask reaches the output of a graph, though its input does."""


def named_node(graph: Graph, name: str) -> Node:
    """Return a node by its name.

    Raises
    ------
    ValueError
        If there is none.
    """
    nodes: list[Node] = list(graph.nodes)
    for node in nodes:
        if node.name == name:
            return node
    raise ValueError(f"no layer {name!r} in the traced graph")


def insert_masks(graph: Graph, nodes: Sequence[Node]) -> None:
    """Multiply the outputs of some nodes by masks, new last inputs of the graph."""
    last = [n for n in graph.nodes if n.op == "placeholder"][-1]
    for ordinal, node in enumerate(nodes):
        with graph.inserting_after(last):
            last = graph.placeholder(f"mask_{ordinal}")
        with graph.inserting_after(node):
            masked = graph.call_function(torch.ops.aten.mul.Tensor, (node, last))
        node.replace_all_uses_with(masked, delete_user_cb=partial(operator.is_not, masked))


def cut(module: GraphModule) -> tuple[GraphModule, GraphModule]:
    """Cut a graph (x, *masks) -> y into prefix x -> state and suffix (*state, *masks) -> y.

    Raises
    ------
    UnreachedError
        If the input reaches the output, but no mask does.
    ValueError
        If neither does. What leaves torch on its way (post-processing in NumPy) is traced as a
        constant: the graph would give the labels of the example for any input.
    """
    graph = module.graph
    graph.eliminate_dead_code()
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    late = _descendants(graph, inputs[1:])
    result = next(n for n in graph.nodes if n.op == "output")
    if late.isdisjoint(result.all_input_nodes):
        if _descendants(graph, inputs[:1]).isdisjoint(result.all_input_nodes):
            raise ValueError("part of the network does not run in torch")
        raise UnreachedError("no mask reaches the output: nothing there uses the layer")
    state = [
        n
        for n in graph.nodes
        if n not in late
        and n.op not in {"placeholder", "output", "get_attr"}
        and n.users
        and any(user in late or user is result for user in n.users)
    ]
    if inputs[0].users and any(user in late for user in inputs[0].users):
        state.insert(0, inputs[0])
    return _prefix(module, late, state), _suffix(module, late, state, inputs[1:])


def _descendants(graph: Graph, roots: Sequence[Node]) -> set[Node]:
    late = set(roots)
    for node in graph.nodes:
        if node.op != "output" and not late.isdisjoint(node.all_input_nodes):
            late.add(node)
    return late


def _prefix(module: GraphModule, late: set[Node], state: Sequence[Node]) -> GraphModule:
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in module.graph.nodes:
        if node not in late and node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[n] for n in state))
    graph.eliminate_dead_code()
    return LazyGraph(module, graph)


def _suffix(
    module: GraphModule, late: set[Node], state: Sequence[Node], masks: Sequence[Node]
) -> GraphModule:
    graph = Graph()
    copies = {node: graph.placeholder(f"state_{i}") for i, node in enumerate(state)}
    copies |= {node: graph.placeholder(f"mask_{i}") for i, node in enumerate(masks)}
    for node, copy in copies.items():
        copy.meta = dict(node.meta)
    for node in module.graph.nodes:
        if node in copies:
            continue
        if node in late or node.op in {"get_attr", "output"}:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.eliminate_dead_code()
    return LazyGraph(module, graph)
