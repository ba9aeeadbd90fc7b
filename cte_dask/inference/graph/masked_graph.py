"""Networks that are graphs already: traced, with a mask an input behind each perturbed node."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from cte_dask.errors import FOREIGN
from cte_dask.inference.graph.bottleneck import BlackBoxError, bottleneck_node
from cte_dask.inference.graph.split import insert_masks, named_node
from cte_dask.inference.graph.trace import traced
from cte_dask.inference.memory import out_of_memory

__all__ = ["masked_graph"]


def masked_graph(
    forward: nn.Module, x: Tensor, names: Sequence[str]
) -> tuple[GraphModule, list[Node]]:
    """Return the graph of a network with a mask an input behind each perturbed node."""
    try:
        with torch.no_grad():
            module = traced(forward, x)
    except FOREIGN as error:  # foreign code: whatever tracing raises, its input can be perturbed
        if out_of_memory(error):
            raise
        raise BlackBoxError(f"its graph cannot be traced: {error}") from error
    module.graph.eliminate_dead_code()
    nodes = [named_node(module.graph, n) for n in names] or [
        bottleneck_node(module.graph, x, retrace=lambda longer: traced(forward, longer).graph)
    ]
    insert_masks(module.graph, nodes)
    module.recompile()
    return module, nodes
