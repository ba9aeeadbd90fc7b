"""A traced graph in the operations that OpenVINO's front end knows.

What depends on no input is computed once and becomes a constant: among it are the attention masks
of transformers, which are filled in place, as the front end cannot. Operations that it lacks are
written with those that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

__all__ = ["convertible"]

_ATEN = torch.ops.aten


def convertible(module: GraphModule) -> GraphModule:
    """Return the same function of a graph's inputs in operations that can be converted.

    Parameters
    ----------
    module
        A graph of ATen operations (`cte_dask.inference.graph.trace.traced`); left as it is.
    """
    graph, constants = Graph(), dict[str, Any]()
    values: dict[Node, Any] = {}
    copies: dict[Node, Node] = {}

    def constant(value: Tensor) -> Node:
        constants[name := f"_value_{len(constants)}"] = value
        return graph.get_attr(name)

    def copy(node: Node) -> Any:
        if node not in copies:
            value = values[node]
            copies[node] = constant(value) if isinstance(value, Tensor) else value
        return copies[node]

    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = getattr(module, str(node.target))
        elif node.op == "call_function" and all(n in values for n in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
        elif node.op == "call_function" and node.target in _WRITTEN:
            args = [map_arg(a, copy) for a in node.args]
            copies[node] = _WRITTEN[node.target](graph, constant, *args)
        else:
            copies[node] = graph.node_copy(node, copy)
    return GraphModule(constants, graph)


def _prelu(graph: Graph, _: Callable[[Tensor], Node], x: Node, weight: Node) -> Node:
    """Write relu(x) − weight · relu(−x)."""
    call = graph.call_function
    below = call(_ATEN.relu.default, (call(_ATEN.neg.default, (x,)),))
    scaled = call(_ATEN.mul.Tensor, (below, weight))
    return call(_ATEN.sub.Tensor, (call(_ATEN.relu.default, (x,)), scaled))


def _replicated(
    graph: Graph, constant: Callable[[Tensor], Node], x: Node, pads: Sequence[int]
) -> Node:
    """Write a padding that repeats the outermost voxels; `pads` begin with the last axis."""
    extent = x.meta["val"].shape
    result = x
    for axis, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), start=1):
        if before or after:
            n = extent[-axis]
            places = torch.arange(-before, n + after).clamp(0, n - 1)
            arguments = (result, len(extent) - axis, constant(places))
            result = graph.call_function(_ATEN.index_select.default, arguments)
    return result


_WRITTEN: dict[Any, Callable[..., Node]] = {
    _ATEN._prelu_kernel.default: _prelu,
    _ATEN.replication_pad2d.default: _replicated,
    _ATEN.replication_pad3d.default: _replicated,
}
