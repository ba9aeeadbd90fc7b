"""The passes of a batch as one graph, for a compiler: what they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from cte_dask.inference.graph.paths import Split
from cte_dask.inference.graph.trace import traced

__all__ = ["CompiledPasses", "together"]


class CompiledPasses(Protocol):
    """The passes of a split network, compiled."""

    def run(self, x: Tensor, masks: Sequence[Sequence[Tensor]], *, cropped: bool) -> list[Tensor]:
        """Return the output of the unperturbed pass, then one a set of masks.

        Parameters
        ----------
        x
            A batch of the shape that the split was made for, (N, C, [z,] y, x).
        masks
            For each perturbed pass one mask (N, C, 1, 1[, 1]) a perturbed layer.
        cropped
            Whether outputs are cut to the tile, as the split's can be.
        """


def together(split: Split, inputs: Sequence[Tensor], count: int, *, cropped: bool) -> GraphModule:
    """Trace all passes of one batch: (x, *masks) -> one output a pass, the unperturbed one first.

    Parameters
    ----------
    split
        The network.
    inputs
        A batch, and `count` masks for each perturbed layer, pass by pass.
    count
        Perturbed passes.
    cropped
        Whether outputs are cut to the tile, as the split's can be.
    """
    with torch.no_grad():
        return traced(_Together(split, inputs[0], count, cropped=cropped), *inputs)


class _Together(nn.Module):
    def __init__(self, split: Split, x: Tensor, count: int, *, cropped: bool) -> None:
        super().__init__()
        self.split, self.cropped = split, cropped
        self.layers, self.count = len(split.channels), count
        for i, maps in enumerate(split.channels):
            ones = torch.ones(len(x), maps, *(1,) * (x.ndim - 2), device=x.device, dtype=x.dtype)
            self.register_buffer(f"ones_{i}", ones)

    def forward(self, x: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        state = self.split.encode(x, cropped=self.cropped)
        n = self.layers
        sets = [masks[i * n : (i + 1) * n] for i in range(self.count)]
        ones = tuple(self.get_buffer(f"ones_{i}") for i in range(n))
        return tuple(self.split.decode(state, m, cropped=self.cropped) for m in (ones, *sets))
