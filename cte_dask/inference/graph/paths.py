"""A network cut at its perturbed layers: how it runs, and what was proven of that.

A proof holds for the weights that it was made with, under the same versions on the same kind of
processor; whoever keeps one sees to that (`Proof.place`, and the digest of the weights).
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.fx import GraphModule

from cte_dask.inference.graph.places import Box, Core, inner_view

__all__ = [
    "FeaturePath",
    "Form",
    "Inner",
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
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    note: str

    @property
    def cut_at(self) -> Core | None:
        """What of an output is given where it is cut to the tile; None if it cannot be."""
        return None

    @property
    def core(self) -> Core | None:
        """Where the tile lies in outputs that are cut to it; None if none can be."""
        cut = self.cut_at
        return None if cut is None else tuple(slice(0, c.stop - c.start) for c in cut)

    @abstractmethod
    def encode(self, x: Tensor, *, cropped: bool = False) -> tuple[Tensor, ...]:
        """Run what no perturbation touches, once a batch; returns the state to decode.

        Parameters
        ----------
        x
            A batch of the shape that the path was made for.
        cropped
            Whether outputs shall be cut to the tile, where `core` is not None.
        """

    @abstractmethod
    def decode(
        self, state: tuple[Tensor, ...], masks: Sequence[Tensor], *, cropped: bool = False
    ) -> Tensor:
        """Run the rest with one mask (N, C, 1, 1[, 1]) a layer; masks of ones change nothing."""

    def run(self, x: Tensor, masks: Sequence[Tensor], *, cropped: bool = False) -> Tensor:
        """Run one pass, with what could be shared in it."""
        return self.decode(self.encode(x, cropped=cropped), masks, cropped=cropped)


@dataclass(frozen=True, slots=True)
class Inner:
    """The graphs of a split network where a tile's core depends on them; else as `Split`.

    Parameters
    ----------
    core
        Where the tile lies in the network's output.
    box
        What of the input they are given.
    """

    prefix: GraphModule
    suffix: GraphModule
    once: GraphModule | None
    core: Core
    box: Box


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
    inner
        What gives a tile alone; None where that needs all of the frame.
    """

    prefix: GraphModule
    suffix: GraphModule
    once: GraphModule | None = None
    traced: tuple[GraphModule, GraphModule] | None = None
    inner: Inner | None = None

    @property
    def cut_at(self) -> Core | None:
        """See `FeaturePath.cut_at`."""
        return None if self.inner is None else self.inner.core

    def encode(self, x: Tensor, *, cropped: bool = False) -> tuple[Tensor, ...]:
        """See `FeaturePath.encode`."""
        graphs: Split | Inner = self
        if cropped and self.inner is not None:
            graphs = self.inner
            x = inner_view(x, tuple(slice(*ends) for ends in self.inner.box))
        state = tuple(graphs.prefix(x))
        return tuple(graphs.once(*state)) if graphs.once else state

    def decode(
        self, state: tuple[Tensor, ...], masks: Sequence[Tensor], *, cropped: bool = False
    ) -> Tensor:
        """See `FeaturePath.decode`."""
        graphs = self.inner if cropped and self.inner else self
        output: Tensor = graphs.suffix(*state, *masks)
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
    core
        Where the tile lies in its output, if what the tile does not depend on is left out.
    """

    kind: Literal["once", "fused", "split"]
    core: Core | None = None


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
    core = path.inner.core if path.inner is not None else None
    if path.once is not None:
        return Form("once", core)
    return Form("split" if path.traced is None else "fused", core)


def proof_of(path: FeaturePath, shape: tuple[int, ...], device: str) -> Proof:
    """Return how a path that was proven runs."""
    form = form_of(path) if isinstance(path, Split) else None
    return Proof(path.layers, path.channels, path.note, form, shape, place(device))
