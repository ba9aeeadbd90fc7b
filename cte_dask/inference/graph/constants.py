"""What a network computes anew for each batch though no input tells it: computed once.

Masks of windows, positions, and norms' parameters repeated for each sample are such constants.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from cte_dask.inference.graph.weights import Held, note

__all__ = ["compute_constants"]


def compute_constants(module: GraphModule) -> None:
    """Run the operations of a graph that depend on no input, and keep what they give.

    Parameters
    ----------
    module
        A graph of ATen operations whose weights are attributes; changed. One that writes to its
        weights, or into what it computes so, is left alone; random numbers are drawn each time.
    """
    fixed = _fixed(module)
    values: dict[Node, Any] = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            if node not in fixed:
                continue
            if node.op == "get_attr":
                values[node] = getattr(module, str(node.target))
                continue
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    for node in list(module.graph.nodes):
        used = node in fixed and any(user not in fixed for user in node.users)
        if used and node.op == "call_function" and isinstance(values[node], Tensor):
            module.register_buffer(name := f"_computed_{node.name}", values[node].detach())
            note(module, name, partial(_computed, steps=_steps(node, fixed)))
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(name)
            constant.meta = dict(node.meta)
            node.replace_all_uses_with(constant, delete_user_cb=lambda n: n not in fixed)
    for node in reversed(list(module.graph.nodes)):
        if node in fixed and not node.users:
            module.graph.erase_node(node)


Step = tuple[Node, str, Any, Any, Any]


def _steps(node: Node, fixed: Collection[Node]) -> list[Step]:
    """Return the operations that compute a constant, in order, as they are before any is erased."""
    wanted = {node}
    for earlier in reversed(list(node.graph.nodes)):
        if earlier in wanted and earlier in fixed:
            wanted.update(earlier.all_input_nodes)
    return [(n, n.op, n.target, n.args, n.kwargs) for n in node.graph.nodes if n in wanted]


def _computed(held: Held, *, steps: list[Step]) -> Tensor:
    values: dict[Node, Any] = {}
    with torch.no_grad():
        for node, op, target, args, kwargs in steps:
            if op == "get_attr":
                values[node] = held(str(target))
                continue
            given, named = map_arg((args, kwargs), values.__getitem__)
            values[node] = target(*given, **named)
    constant: Tensor = values[steps[-1][0]]
    return constant.detach()


def _fixed(module: GraphModule) -> set[Node]:
    """Return the nodes that no input reaches; none if running them once would not be the same."""
    fixed: set[Node] = set()
    weights: set[Node] = set()  # what shares memory with one
    for node in module.graph.nodes:
        if node.op == "get_attr":
            fixed.add(node)
            weights.add(node)
        elif node.op == "call_function":
            inputs, written = set(node.all_input_nodes), _written(node)
            constant = inputs <= fixed and not _is_drawn(node)
            # a weight that changes, or a constant into which each batch writes
            if written & weights or (written & fixed and not constant):
                return set()
            if constant:
                fixed.add(node)
            if constant and _is_view(node) and inputs & weights:
                weights.add(node)
    return fixed


def _written(node: Node) -> set[Node]:
    """Return the arguments that an operation writes to."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return set()
    given = [
        node.args[i] if i < len(node.args) else node.kwargs.get(a.name)
        for i, a in enumerate(schema.arguments)
    ]
    marked = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    return {g for g, m in zip(given, marked, strict=True) if m and isinstance(g, Node)}


def _is_view(node: Node) -> bool:
    """Tell whether a result may share memory with an argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(r.alias_info is not None for r in schema.returns)


def _is_drawn(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
