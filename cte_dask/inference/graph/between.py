"""What a constant between two linear operations becomes behind the second."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

__all__ = ["Between"]


class Between(nn.Module):
    """What a constant that was added to enlarged maps gives behind the convolution.

    Inside it is a number a map; where the kernel reaches beyond the border, less of it.

    Parameters
    ----------
    weight
        Of the convolution, times the constant, (C', 1, …).
    padding
        Of the convolution.
    """

    def __init__(self, weight: Tensor, padding: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        axes = tuple(range(2, weight.ndim))
        self.register_buffer("inside", weight.sum(axes, keepdim=True).transpose(0, 1))
        self.padding = padding
        self._known: dict[tuple[int, ...], Tensor] = {}

    def is_inside(self, box: Sequence[tuple[int, int]], whole: Sequence[tuple[int, int]]) -> bool:
        """Tell whether it is one number a map, ``inside``, all over a box of its result."""
        axes = zip(box, whole, self.padding, strict=True)
        return all(a >= p and b <= n - p for (a, b), (_, n), p in axes)

    def forward(self, result: Tensor) -> Tensor:
        """Return it for maps of some extent, (1, C', …)."""
        extent = tuple(result.shape[2:])
        if extent not in self._known:
            self._known[extent] = self._of(extent)
        return self._known[extent]

    def _of(self, extent: tuple[int, ...]) -> Tensor:
        """Return it, computed near the borders and at one voxel inside, which is repeated."""
        weight = self.get_buffer("weight")
        axes = list(zip(extent, weight.shape[2:], self.padding, strict=True))
        near = [_near(n, p) for n, _, p in axes]
        result: Tensor = weight.new_zeros(1, len(weight), *(len(places) for places in near))
        for t in product(*(range(k) for k in weight.shape[2:])):
            element = weight.flatten(2)[:, 0, _flat(t, weight.shape[2:])]
            share = element.reshape(1, -1, *(1,) * len(axes))
            for axis, (places, a, (n, k, p)) in enumerate(zip(near, t, axes, strict=True), 2):
                # where this element of the kernel meets a voxel, not the padding
                met = [0 <= o + a - p < n + k - 1 - 2 * p for o in places]
                shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
                share = share * torch.tensor(met, device=weight.device).reshape(shape)
            result += share
        for axis, (places, (n, _, p)) in enumerate(zip(near, axes, strict=True), 2):
            index = [places.index(o if o < p or o >= n - p else p) for o in range(n)]
            result = result.index_select(axis, torch.tensor(index, device=weight.device))
        last = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
        return result.contiguous(memory_format=last)


def _near(extent: int, padding: int) -> list[int]:
    """Return the places near both borders, and one between if there is any."""
    inside = [padding] if extent > 2 * padding else []
    first = list(range(min(padding, extent)))
    return [*first, *inside, *range(max(padding, extent - padding), extent)]


def _flat(place: tuple[int, ...], extent: Sequence[int]) -> int:
    number = 0
    for a, n in zip(place, extent, strict=True):
        number = number * n + a
    return number
