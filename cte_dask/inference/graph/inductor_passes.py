"""Passes of a split network compiled for a GPU by PyTorch's inductor. Not yet run on a GPU.

The tests compile them for the processor, where they are not offered: they want a C++ compiler and
half a minute a network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from cte_dask.inference.graph.paths import Split
from cte_dask.inference.graph.together import together

__all__ = ["InductorPasses"]


class InductorPasses:
    """Compiles the passes of a split network, once for each number of perturbed passes.

    Parameters
    ----------
    split
        The network, on the device where it runs.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._compiled: dict[tuple[int, bool], Callable[..., Any]] = {}
        self._lock = Lock()

    def run(self, x: Tensor, masks: Sequence[Sequence[Tensor]], *, cropped: bool) -> list[Tensor]:
        """See `cte_dask.inference.graph.together.CompiledPasses.run`."""
        inputs = [x.contiguous(), *(mask for layers in masks for mask in layers)]
        key = len(masks), cropped
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's compiler uses what PyTorch deprecates
            if key not in self._compiled:
                self._compiled[key] = self._compile(inputs, len(masks), cropped=cropped)
            return list(self._compiled[key](*inputs))

    def _compile(
        self, inputs: Sequence[Tensor], count: int, *, cropped: bool
    ) -> Callable[..., Any]:
        lazy = together(self._split, inputs, count, cropped=cropped)
        graph = GraphModule(lazy, lazy.graph)  # PyTorch's compiler sees nothing of a lazy one
        compiled: Callable[..., Any] = torch.compile(graph, fullgraph=True, dynamic=False)
        return compiled
