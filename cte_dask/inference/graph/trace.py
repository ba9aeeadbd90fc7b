"""Tracing: the operations that a function runs for its inputs, recorded as a graph.

Operations are recorded where PyTorch dispatches them, below modules, autograd and TorchScript: the
graph holds the ATen operations that ran, in their order, whatever the code around them. What it
held that no input tells (a branch taken, an array computed elsewhere) is a constant of the graph;
whoever uses a trace compares it with the function first. PyTorch has tracers of its own; they load
its compiler, which takes a process longer than all else it does before its first tile, and 70 MB.
The same watch counts floating-point operations.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from cte_dask.inference.graph.private_torch import (
    LazyGraph,
    Watching,
    WeakTensorKeyDictionary,
    flop_registry,
)

__all__ = ["flops_of", "traced"]


def flops_of(run: Callable[[], object]) -> int:
    """Run something and return its floating-point operations (2 a multiply-add).

    Parameters
    ----------
    run
        Runs networks; outputs are dropped.

    Returns
    -------
    int
        The sum of PyTorch's formulas (`torch.utils.flop_counter`, which gives the same sum but
        loads PyTorch's compiler to do so), over every operation that it has one for.
    """
    counter = _Counter()
    with torch.no_grad(), counter:
        run()
    return counter.total


class _Counter(Watching):
    """Adds up the operations that run inside its context."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def ran(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += int(formula(*args, **kwargs, out_val=result))


def traced(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    """Run a function once and return the graph of what it ran.

    Parameters
    ----------
    function
        inputs -> a tensor, or tensors in lists, tuples and dicts. Weights it uses are its own.
    inputs
        Tensors of the shape, dtype and device that will be used.

    Returns
    -------
    GraphModule
        inputs -> the same result, from ATen operations alone. Weights and constants are attributes,
        the same objects as the function's. Each node's ``meta["val"]`` is its result, shape, dtype
        and strides alone; nodes are named after their operation.

    Raises
    ------
    ValueError
        If the function looks at values (``.item()``, ``if x.sum() > 0``): other inputs might run
        other operations.
    Exception
        Whatever the function raises.
    """
    recorder = _Recorder()
    for number, tensor in enumerate(inputs):
        recorder.note(recorder.graph.placeholder(f"input_{number}"), tensor)
    with recorder:
        result = function(*inputs)
    recorder.graph.output(recorder.nodes(result))
    return LazyGraph(recorder.constants, recorder.graph)


class _Recorder(Watching):
    """Writes every operation that runs inside its context into a graph."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self.constants: dict[str, Any] = {}
        # held weakly: a trace needs no more memory than the function itself
        self._nodes: Any = WeakTensorKeyDictionary()

    def ran(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """See `Watching.ran`."""
        if isinstance(result, bool | int | float | complex):
            looked = f"it looks at values ({func}): other inputs may run other operations"
            raise ValueError(looked)  # noqa: TRY004 - of a trace, not of a type
        name = func.overloadpacket.__name__
        args, kwargs = self.nodes((args, kwargs))
        self.note(self.graph.create_node("call_function", func, args, kwargs, name=name), result)

    def nodes(self, values: Any) -> Any:
        """Return lists, tuples and dicts with nodes in place of their tensors."""
        return map_aggregate(values, lambda v: self.node(v) if isinstance(v, Tensor) else v)

    def node(self, tensor: Tensor) -> Node:
        """Return what a tensor is in the graph; one that nothing in it made is a constant."""
        node: Node | None = self._nodes.get(tensor)
        if node is None:
            name = f"_constant_{len(self.constants)}"
            self.constants[name] = tensor
            node = self.graph.get_attr(name)
            self.note(node, tensor)
        return node

    def note(self, node: Node, result: Any) -> None:
        """Remember which node a result comes from."""
        if isinstance(result, Tensor):
            node.meta["val"] = torch.empty_strided(
                result.shape, result.stride(), dtype=result.dtype, device="meta"
            )
            self._nodes[result] = node
        elif isinstance(result, list | tuple):
            for number, item in enumerate(result):
                self.note(self.graph.call_function(operator.getitem, (node, number)), item)
