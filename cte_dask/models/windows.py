"""A network that takes one extent alone, run in windows over larger images.

Vision transformers with learnt positions, and programs exported for one shape, take images of one
extent. Windows of that extent overlap by twice the halo, and each gives what lies inside of its
halo::

    image    |---------------------------------|
    windows  |===========|                          = what each gives
                    |----========---|
                           |-----==============|   the last one is shifted back to the image's end
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Windows"]


class Windows(nn.Module):
    """A network of one extent, for images of any.

    Parameters
    ----------
    network
        Maps (N, C, [z,] y, x) of the extent to (N, C_out, [z,] y, x).
    extent
        The extent ([z,] y, x), None along an axis where it takes any.
    halo
        Voxels along each window's borders that it does not give, except at the image's own.

    Raises
    ------
    ValueError
        If the halo leaves nothing of a window.
    """

    def __init__(
        self, network: nn.Module, *, extent: Sequence[int | None], halo: Sequence[int]
    ) -> None:
        super().__init__()
        self.network, self.extent, self.halo = network, tuple(extent), tuple(halo)
        self.training = network.training
        if any(n and n <= 2 * h for n, h in zip(self.extent, self.halo, strict=True)):
            raise ValueError(
                f"it takes images of {self.extent} voxels alone, and a halo of {self.halo} leaves "
                "nothing of them: name a smaller halo in the bank"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for images that may be larger, or smaller, than the extent."""
        before = x.shape[2:]
        for axis, least in enumerate(self.extent, start=2):
            x = _mirrored(x, axis, least or 0)
        y = self._along(x, 0)
        for axis, extent in enumerate(before, start=2):
            y = y.narrow(axis, 0, extent)
        return y

    def window(self, x: Tensor) -> Tensor:
        """Return the first window of images."""
        for axis, extent in enumerate(self.extent, start=2):
            if extent is not None:
                x = _mirrored(x, axis, extent).narrow(axis, 0, extent)
        return x.contiguous()

    def _along(self, x: Tensor, axis: int) -> Tensor:
        if axis == len(self.extent):
            output: Tensor = self.network(x.contiguous())
            return output
        dim, halo = 2 + axis, self.halo[axis]
        size = self.extent[axis] or x.shape[dim]
        strips = []
        for start, low, high in _windows(x.shape[dim], size, halo):
            strip = self._along(x.narrow(dim, start, size), axis + 1)
            strips.append(strip.narrow(dim, low - start, high - low))
        return strips[0] if len(strips) == 1 else torch.cat(strips, dim)

    # the network's own names: the bank names its layers by them
    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """See `torch.nn.Module`; those of the network."""
        modules: Iterator[tuple[str, nn.Module]] = self.network.named_modules(*args, **kwargs)
        return modules

    def get_submodule(self, target: str) -> nn.Module:
        """See `torch.nn.Module`; that of the network."""
        return self.network.get_submodule(target)


def _windows(extent: int, size: int, halo: int) -> Iterator[tuple[int, int, int]]:
    """Yield the start of each window along an axis, and the part of the image that it gives."""
    low = start = 0
    while start + size < extent:
        yield start, low, start + size - halo
        low = start + size - halo
        start = min(start + size - 2 * halo, extent - size)
    yield start, low, extent


def _mirrored(x: Tensor, axis: int, least: int) -> Tensor:
    """Return images that are at least so long along an axis, mirrored at their end."""
    extent = x.shape[axis]
    if extent >= least:
        return x
    places = torch.arange(least, device=x.device) % (2 * extent)
    return x.index_select(axis, torch.minimum(places, 2 * extent - 1 - places))
