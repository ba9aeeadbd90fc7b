"""Spatial dropout at the bottleneck, with the encoder run once.

The network is traced once for a fixed batch shape with one mask an argument per perturbed layer.
Every operation that does not depend on a mask is the **prefix** (the encoder, and any part of the
decoder that sees only skips); the rest is the **suffix**. A tile then costs one prefix and
1 + N_pert suffixes, for any ``nn.Module``, TorchScript or exported program, without touching its
code (eq. 2 of Talks & Kreshuk, arXiv 2503.00450; dropout of whole maps: Tompson et al. 2015,
arXiv 1411.4280). Where a network cannot be traced, or its split is not provably equal to the plain
forward pass, the plain pass runs once a perturbation instead and says so.

Forward passes cut at the layers that are perturbed, and how they are run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from cte_dask.errors import FOREIGN, reason
from cte_dask.inference.graph import trace_cache as shared
from cte_dask.inference.graph.bottleneck import (
    BlackBoxError,
    bottleneck_module,
    bottleneck_node,
    hooked,
    reaches_output,
)
from cte_dask.inference.graph.crop_to_core import Core, Crop, find_crop, inner_view
from cte_dask.inference.graph.fold_and_fuse import fused
from cte_dask.inference.graph.skip_once import halved
from cte_dask.inference.graph.split import UnreachedError, cut, insert_masks, named_node
from cte_dask.inference.graph.trace import traced
from cte_dask.models.windows import Windows

if TYPE_CHECKING:
    from cte_dask.models.network import Network

__all__ = ["FeaturePath", "Plain", "Split", "bottleneck_of", "example_masks", "feature_path"]


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


DIFFERS = "the split network differs from the plain one"
FUSED_TOLERANCE = 1e-4
"""How far a fused network may be off, as a part of its largest output."""


def bottleneck_of(network: Network, x: Tensor, *, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the layers that feature perturbation will touch: `names`, or the bottleneck found.

    Raises
    ------
    BlackBoxError
        If there is no bottleneck or the network cannot be opened.
    ValueError
        If a name is unknown.
    """
    return feature_path(network, x, names=names).layers


def feature_path(
    network: Network,
    x: Tensor,
    *,
    names: Sequence[str] = (),
    core: Core | None = None,
    whole: bool = False,
) -> FeaturePath:
    """Cut a network at its bottleneck (or at the named layers) for one batch shape.

    Parameters
    ----------
    network
        The loaded model.
    x
        A batch of the shape, dtype and device that will be used, (N, C, [z,] y, x).
    names
        Layers to perturb in place of the bottleneck.
    core
        Where the scored tile lies in an output (spatial axes); what it does not depend on can then
        be left out.
    whole
        Whether the network was found to differ from its split, and so runs whole in every pass.

    Returns
    -------
    FeaturePath
        Split where that is proven equal to the plain pass on `x`, else plain.

    Raises
    ------
    BlackBoxError
        If no bottleneck is found or the network cannot be opened.
    ValueError
        If a name is unknown.
    """
    if network.kind == "opaque":
        raise BlackBoxError("a black box: its features cannot be reached")
    if isinstance(network.forward, Windows):
        core = None  # windows are cut where the state has no place of its own
    if network.kind == "module":
        return _whole(network, x, names) if whole else _module_path(network, x, tuple(names), core)
    if whole:
        raise BlackBoxError(f"its features cannot be perturbed: {DIFFERS} on a tile of the target")
    return _graph_path(network.forward, x, tuple(names), core)


def _whole(network: Network, x: Tensor, names: Sequence[str]) -> Plain:
    module = network.forward
    layers = tuple(names) or _module_path(network, x, (), None).layers
    note = f"encoder not shared: {DIFFERS} on a tile of the target"
    return Plain(layers, _channels(module, layers, x), note, module)


def _module_path(
    network: Network,
    x: Tensor,
    names: tuple[str, ...],
    core: Core | None,
    unused: tuple[str, ...] = (),
) -> FeaturePath:
    module = network.forward
    key = (network.code, names, tuple(x.shape), x.dtype, str(x.device)) if network.code else None
    known = shared.recall(key, module)
    layers = known.layers if known else names or (_bottleneck(module, x, unused),)
    channels = known.channels if known else _channels(module, layers, x)
    plain = Plain(layers, channels, "", module)

    def masked(x: Tensor, *masks: Tensor) -> Tensor:
        return plain.decode((x,), masks)

    try:
        if known is None:
            with torch.no_grad():
                halves = cut(traced(masked, x, *example_masks(x, channels, random=False)))
        else:
            halves = known.prefix, known.suffix
        proven = _proven(halves, x, layers, channels, plain=masked)
    # Tracing executes foreign code: whatever it raises, plain passes work.
    except FOREIGN as error:
        if known is not None:  # the weights decide more than numbers: a trace of its own
            return _module_path(replace(network, code=""), x, names, core)
        dead = isinstance(error, UnreachedError) and not reaches_output(module, layers, x)
        if dead and not names:
            return _module_path(network, x, names, core, (*unused, *layers))
        return Plain(layers, channels, f"encoder not shared: {reason(error)}", module)
    shared.keep(key, module, layers, channels, halves)
    return _faster(proven, core, key)


def _bottleneck(module: nn.Module, x: Tensor, unused: Collection[str]) -> str:
    """Return the bottleneck; of a network that is run in windows, that of each of them."""
    if not isinstance(module, Windows):
        return bottleneck_module(module, x, unused=unused)
    name = bottleneck_module(module, window := module.window(x), unused=unused)
    if "@" in name and window.shape != x.shape:
        raise BlackBoxError(f"its bottleneck {name} is one of several calls of a layer, in windows")
    return name


def _channels(module: nn.Module, layers: Sequence[str], x: Tensor) -> tuple[int, ...]:
    channels: dict[int, int] = {}

    def note(ordinal: int, output: Tensor) -> Tensor:
        channels[ordinal] = output.shape[1]
        return output

    with torch.no_grad(), hooked(module, layers, note):
        module(x)
    for ordinal, layer in enumerate(layers):
        if ordinal not in channels:
            raise ValueError(f"layer {layer!r} did not run for one tile")
    return tuple(channels[i] for i in range(len(layers)))


def _graph_path(
    forward: nn.Module, x: Tensor, names: tuple[str, ...], core: Core | None
) -> FeaturePath:
    if isinstance(forward, Windows) and forward.window(x).shape != x.shape:
        raise BlackBoxError("its features cannot be reached in a network that is run in windows")
    try:
        with torch.no_grad():
            module = traced(forward, x)
    except FOREIGN as error:  # foreign code: whatever tracing raises, its input can be perturbed
        raise BlackBoxError(f"its graph cannot be traced: {error}") from error
    module.graph.eliminate_dead_code()
    nodes = [named_node(module.graph, n) for n in names] or [
        bottleneck_node(module.graph, x, retrace=lambda longer: traced(forward, longer).graph)
    ]
    channels = tuple(node.meta["val"].shape[1] for node in nodes)
    insert_masks(module.graph, nodes)
    module.recompile()
    layers = tuple(node.name for node in nodes)
    try:
        proven = _proven(cut(module), x, layers, channels, plain=module)
    except ValueError as error:
        if names:  # the user asked for these layers
            raise
        raise BlackBoxError(f"its features cannot be perturbed: {error}") from error
    return _faster(proven, core, None)


@dataclass(frozen=True, slots=True)
class _Proven:
    """A split that equals the plain pass, and what it gave for one batch and masks."""

    split: Split
    x: Tensor
    masks: list[Tensor]
    state: tuple[Tensor, ...]
    output: Tensor


def _faster(proven: _Proven, core: Core | None, key: shared.Key) -> Split:
    """Fuse a split and cut it to the core, as far as its results differ by rounding alone."""
    split, x = proven.split, proven.x
    with torch.no_grad():
        crop = None if core is None else _crop(proven, core, key)
        prefix, suffix = fused(split.prefix, x.device), fused(split.suffix, x.device)
        quick = replace(split, prefix=prefix, suffix=suffix, traced=(split.prefix, split.suffix))
        halves = halved(quick.suffix)
        forms = [replace(quick, once=halves[0], suffix=halves[1])] if halves else []
        candidates = (
            replace(f, crop=c) for f in (*forms, quick) for c in ((crop, None) if crop else (None,))
        )
        return next((f for f in candidates if _fits(f, proven, core)), split)


def _crop(proven: _Proven, core: Core, key: shared.Key) -> Crop | None:
    known = shared.crop_of(key, core)
    if known is None:
        crop = find_crop(proven.split.suffix, proven.state, proven.masks, core)
        shared.keep_crop(key, core, crop)
        return crop
    return None if known == shared.NOTHING else known


def _fits(split: Split, proven: _Proven, core: Core | None) -> bool:
    x, masks, want = proven.x, proven.masks, proven.output
    # rounding grows with the size of the sums, not of each result
    tolerance = FUSED_TOLERANCE * float(want.abs().max())

    def off(got: Tensor, want: Tensor) -> float:
        return float((got - want).abs().max()) if got.shape == want.shape else math.inf

    try:
        if off(split.decode(split.encode(x), masks), want) > tolerance:
            return False
        if split.crop is None or core is None:
            return True
        cropped = split.decode(split.encode(x, cropped=True), masks)
        return off(inner_view(cropped, split.crop.core), inner_view(want, core)) <= tolerance
    except RuntimeError:  # a graph that holds the extents it was traced with
        return False


def _proven(
    halves: tuple[GraphModule, GraphModule],
    x: Tensor,
    layers: tuple[str, ...],
    channels: tuple[int, ...],
    *,
    plain: Callable[..., Tensor],
) -> _Proven:
    """Compare a cut graph with the plain pass; the second decode catches a spoilt state."""
    split = Split(layers, channels, "", *halves)
    masks = example_masks(x, channels, random=True)
    with torch.no_grad():
        want = plain(x, *masks)
        state = split.encode(x)
        for _ in range(2):
            _require_equal(got := split.decode(state, masks), want)
        # a number that the trace holds fast was right for the input it was traced with alone
        other = 0.3 * x.flip(-1) + 0.5
        _require_equal(split.decode(split.encode(other), masks), plain(other, *masks))
    return _Proven(split, x, masks, state, got)


def _require_equal(got: Tensor, want: Tensor) -> None:
    if not torch.equal(got, want) and not torch.allclose(got, want, rtol=1e-5, atol=1e-6):
        raise ValueError(DIFFERS)
