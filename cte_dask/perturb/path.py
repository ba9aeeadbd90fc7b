"""Forward passes cut at the layers that are perturbed, and how they are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from cte_dask.perturb.bottleneck import hooked
from cte_dask.perturb.crop import Crop

__all__ = ["FeaturePath", "Plain", "Split", "example_masks"]


@dataclass(frozen=True, slots=True)
class FeaturePath(ABC):
    """A forward pass cut at its perturbed layers.

    Parameters
    ----------
    layers
        Names of the perturbed layers.
    channels
        Number of feature maps of each.
    note
        Why the encoder is not shared, empty where it is.
    crop
        How a state can be cut to what a tile's core depends on; None where it cannot.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    note: str
    crop: Crop | None = field(default=None, kw_only=True)

    @abstractmethod
    def encode(self, x: Tensor, *, cropped: bool = False) -> tuple[Tensor, ...]:
        """Run what no perturbation touches, once a batch; returns the state to decode.

        Parameters
        ----------
        x
            A batch of the shape that the path was made for.
        cropped
            Whether outputs shall be those of `crop`, which must not be None, not of the whole `x`.
        """

    @abstractmethod
    def decode(self, state: tuple[Tensor, ...], masks: Sequence[Tensor]) -> Tensor:
        """Run the rest with one mask (N, C, 1, 1[, 1]) a layer; masks of ones change nothing."""


@dataclass(frozen=True, slots=True)
class Split(FeaturePath):
    """A network cut in two, the first part run once for all passes.

    Parameters
    ----------
    prefix
        x -> state.
    suffix
        (*state, *masks) -> y.
    once
        state -> state, run once after the cut to the core; see `cte_dask.perturb.halves`.
    """

    prefix: GraphModule
    suffix: GraphModule
    once: GraphModule | None = None

    def encode(self, x: Tensor, *, cropped: bool = False) -> tuple[Tensor, ...]:
        """See `FeaturePath.encode`."""
        state = tuple(self.prefix(x))
        if cropped and self.crop is not None:
            state = self.crop.cut(state)
        return tuple(self.once(*state)) if self.once else state

    def decode(self, state: tuple[Tensor, ...], masks: Sequence[Tensor]) -> Tensor:
        """See `FeaturePath.decode`."""
        output: Tensor = self.suffix(*state, *masks)
        return output


@dataclass(frozen=True, slots=True)
class Plain(FeaturePath):
    """A network that runs whole in every pass.

    Parameters
    ----------
    module
        The network.
    """

    module: nn.Module

    def encode(self, x: Tensor, *, cropped: bool = False) -> tuple[Tensor, ...]:
        """See `FeaturePath.encode`; nothing is shared."""
        return (x,)

    def decode(self, state: tuple[Tensor, ...], masks: Sequence[Tensor]) -> Tensor:
        """See `FeaturePath.decode`."""
        with hooked(self.module, self.layers, lambda i, y: y * masks[i]):
            output: Tensor = self.module(state[0])
        return output


def example_masks(x: Tensor, channels: Sequence[int], *, random: bool) -> list[Tensor]:
    """Return a mask a layer, (N, C, 1, 1[, 1]): of ones, or uniform in [0, 1).

    Parameters
    ----------
    x
        The batch; gives device and dtype.
    channels
        Feature maps of each layer.
    random
        Whether they are drawn; always the same draw.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(x.shape[0], c, *(1,) * (x.ndim - 2)) for c in channels]
    draws = [torch.rand(s, generator=generator) if random else torch.ones(s) for s in shapes]
    return [d.to(device=x.device, dtype=x.dtype) for d in draws]
