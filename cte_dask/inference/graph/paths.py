"""A network cut at its perturbed layers: how it runs, and what was proven of that.

A proof holds for the weights that it was made with, under the same versions on the same kind of
processor; whoever keeps one sees to that (`Proof.place`, and the digest of the weights).
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.fx import GraphModule

from cte_dask.inference.graph.crop_to_core import Crop

__all__ = [
    "FeaturePath",
    "Form",
    "Proof",
    "Split",
    "example_masks",
    "form_of",
    "place",
    "proof_of",
]


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

    def run(self, x: Tensor, masks: Sequence[Tensor], *, cropped: bool = False) -> Tensor:
        """Run one pass, with what could be shared in it."""
        return self.decode(self.encode(x, cropped=cropped), masks)


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
        state -> state, run once after the cut to the core; see
        `cte_dask.inference.graph.skip_once`.
    traced
        Prefix and suffix as they were traced, where those here were folded and fused.
    """

    prefix: GraphModule
    suffix: GraphModule
    once: GraphModule | None = None
    traced: tuple[GraphModule, GraphModule] | None = None

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


@dataclass(frozen=True, slots=True)
class Form:
    """How a split network runs.

    Parameters
    ----------
    kind
        ``"once"``: fused, and half of each convolution over a skip run once; ``"fused"``;
        ``"split"``: the operations as they were traced.
    crop
        How its state is cut to what the core depends on; None where it is not.
    """

    kind: Literal["once", "fused", "split"]
    crop: Crop | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """How the passes of a network run, as proven for its weights and one batch shape.

    Parameters
    ----------
    layers, channels, note
        See `cte_dask.inference.graph.paths.FeaturePath`.
    form
        Of a split network; None of one that runs whole in every pass.
    shape
        Of the batch that it was proven for.
    place
        Where; see `place`.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    note: str
    form: Form | None
    shape: tuple[int, ...]
    place: str

    def holds(self, shape: tuple[int, ...], device: str) -> bool:
        """Tell whether it holds here for batches of a shape."""
        return (self.shape, self.place) == (shape, place(device))


@cache
def place(device: str) -> str:
    """Return what the rounding of passes depends on, weights aside: PyTorch and the processor."""
    if device == "cuda":
        processor = torch.cuda.get_device_name()
    else:
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"torch {torch.__version__}, {processor}"


def form_of(path: Split) -> Form:
    """Return the form in which a split network runs."""
    if path.once is not None:
        return Form("once", path.crop)
    return Form("split" if path.traced is None else "fused", path.crop)


def proof_of(path: FeaturePath, shape: tuple[int, ...], device: str) -> Proof:
    """Return how a path that was proven runs."""
    form = form_of(path) if isinstance(path, Split) else None
    return Proof(path.layers, path.channels, path.note, form, shape, place(device))
