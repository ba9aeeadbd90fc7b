"""A pass computed where the scored core of a tile depends on it, layer by layer.

A tile is read with the halo of the whole network. Each layer needs less of its input than the one
before it was given: the last convolution one voxel around the core, the deepest layers some more.
From the core back to the image, what each operation of a graph reads is known
(`cte_dask.inference.graph.boxes`); every operation then runs on that box alone, convolutions
without padding where all that they read is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from cte_dask.inference.graph.boxes import Step, step_of, whole_of
from cte_dask.inference.graph.paths import Inner, Split
from cte_dask.inference.graph.places import Box, Core
from cte_dask.inference.graph.private_torch import LazyGraph
from cte_dask.inference.graph.refill import Recipe, rewritten

__all__ = ["cut_to", "narrowed"]

_ATEN = torch.ops.aten


def cut_to(split: Split, core: Core) -> Split | None:
    """Leave out of a split what a tile does not depend on; None if it depends on everything.

    Parameters
    ----------
    split
        The network.
    core
        Where the tile lies in its output.
    """
    graphs = [graph for graph in (split.prefix, split.once, split.suffix) if graph is not None]
    wanted: list[Box] = [tuple((c.start, c.stop) for c in core)]
    left_out, cut = False, []
    for graph in reversed(graphs):
        inner, boxes = narrowed(graph, wanted)
        inputs = [n for n in graph.graph.nodes if n.op == "placeholder"]
        wanted = [boxes.get(n.name, ()) for n in inputs if not n.name.startswith("mask_")]
        left_out |= any(boxes[n.name] != whole_of(n) for n in inputs if n.name in boxes)
        cut.append(inner)
    if not left_out or len(wanted) != 1:
        return None
    suffix, *rest = cut
    once = rest[0] if len(rest) > 1 else None
    return replace(split, inner=Inner(rest[-1], suffix, once, core, wanted[0]))


def narrowed(module: GraphModule, wanted: Sequence[Box]) -> tuple[GraphModule, dict[str, Box]]:
    """Return a graph that gives boxes of its results, and what it needs for that.

    Parameters
    ----------
    module
        A graph of ATen and oneDNN operations whose nodes have shapes and strides of their results
        as ``meta["val"]``; left as it is.
    wanted
        The box of each result; empty for all of it.

    Returns
    -------
    tuple
        The graph, and by name the box of each of its inputs that are maps: what it is to be given
        in place of the whole map.
    """
    known = rewritten(module.graph)
    if (key := tuple(wanted)) in known:
        recipe, inputs = known[key]
        return recipe.filled(module), inputs
    nodes: list[Node] = list(module.graph.nodes)
    needs: dict[Node, Box] = {}
    for result, box in zip(_results(nodes[-1]), wanted, strict=True):
        _widen(needs, result, box or whole_of(result))
    steps: dict[Node, Step] = {}
    for node in reversed(nodes):
        if node.op in {"call_function", "call_module"} and node in needs:
            steps[node] = step = step_of(module, node, needs[node])
            for argument in () if step.is_number else node.all_input_nodes:
                _widen(needs, argument, step.reads.get(argument, whole_of(argument)))
    written, inputs = _Writer(module, needs, steps).written(wanted)
    known[key] = Recipe.of(written), inputs
    return written, inputs


def _results(output: Node) -> list[Node]:
    given: Any = output.args[0]
    return list(given) if isinstance(given, list | tuple) else [given]


def _widen(needs: dict[Node, Box], node: Node, box: Box) -> None:
    """Note that a box of a node is needed, beside those that are."""
    if old := needs.get(node):
        pairs = zip(old, box, strict=True)
        box = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in pairs)
    needs[node] = box


class _Writer:
    """Writes the graph whose steps are known."""

    def __init__(
        self, module: GraphModule, needs: dict[Node, Box], steps: dict[Node, Step]
    ) -> None:
        self.module, self.needs, self.steps = module, needs, steps
        self.graph = Graph()
        self.numbers: set[Node] = set()
        self.copies: dict[Node, Node] = {}
        self.gives: dict[Node, Box] = {}

    def written(self, wanted: Sequence[Box]) -> tuple[GraphModule, dict[str, Box]]:
        """Return the graph, and the boxes of its inputs."""
        *nodes, output = self.module.graph.nodes
        for node in nodes:
            self.copies[node] = self._copy(node)
        results = [self._result(*pair) for pair in zip(_results(output), wanted, strict=True)]
        several = isinstance(output.args[0], list | tuple)
        self.graph.output(tuple(results) if several else results[0])
        inputs = {
            n.name: box for n, box in self.gives.items() if n.op == "placeholder" and whole_of(n)
        }
        result = LazyGraph(self.module, self.graph)
        result.graph.eliminate_dead_code()  # which asks the module about those that it calls
        result.recompile()
        return result, inputs

    def _copy(self, node: Node) -> Node:
        step = self.steps.get(node)
        if step is None:
            copy = self.graph.node_copy(node, self.copies.__getitem__)
            self.gives[node] = self.needs.get(node, ()) if node.op == "placeholder" else ()
            return copy
        self.gives[node] = step.gives
        if step.is_number:
            self.numbers.add(node)
            return self.graph.get_attr(f"{node.target}.inside")
        changed = tuple(step.changed.get(i, a) for i, a in enumerate(node.args))
        arguments = map_arg(changed, lambda n: self._part(n, step.reads.get(n, ())))
        keywords = map_arg(dict(node.kwargs), self.copies.__getitem__)
        return self.graph.create_node(node.op, node.target, arguments, keywords)

    def _part(self, node: Node, box: Box) -> Node:
        """Return what holds a box of a node's result."""
        copy, given = self.copies[node], self.gives[node] or whole_of(node)
        if node in self.numbers:
            return copy
        for axis, ((a, b), (low, high)) in enumerate(zip(box, given, strict=False), start=2):
            if (a, b) != (low, high):
                ends = (a - low, b - low)
                copy = self.graph.call_function(_ATEN.slice.Tensor, (copy, axis, *ends))
        return copy

    def _result(self, node: Node, box: Box) -> Node:
        """Return a box of a result, laid out as the whole of it is."""
        part = self._part(node, box or whole_of(node))
        if part is self.copies[node]:
            return part
        value: Tensor = node.meta["val"]
        last = torch.channels_last if value.ndim == 4 else torch.channels_last_3d
        layout = last if value.is_contiguous(memory_format=last) else torch.contiguous_format
        return self.graph.call_function(_ATEN.clone.default, (part,), {"memory_format": layout})
