"""Networks that were trained on arrays of another order of axes than z, y, x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["ReorderedAxes", "in_our_order"]


class ReorderedAxes(nn.Module):
    """Takes and returns (N, C, [z,] y, x) for a network of another order of spatial axes.

    Parameters
    ----------
    network
        Maps (N, C, *spatial) to tensors of that kind: one, several or named ones.
    order
        For each spatial axis of the network, its position among ours.
    """

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.there = (0, 1, *(2 + axis for axis in order))
        self.back = tuple(self.there.index(axis) for axis in range(len(self.there)))

    def forward(self, x: Tensor) -> Any:
        """Return what the network gives, in our order."""
        y = self.network(x.permute(self.there))
        if isinstance(y, Tensor):
            return y.permute(self.back)
        if isinstance(y, Mapping):
            return {name: tensor.permute(self.back) for name, tensor in y.items()}
        return [tensor.permute(self.back) for tensor in y]


def in_our_order(network: nn.Module, order: Sequence[int]) -> nn.Module:
    """Return a network for (N, C, [z,] y, x); itself where its axes are in that order."""
    return network if list(order) == sorted(order) else ReorderedAxes(network, order)
