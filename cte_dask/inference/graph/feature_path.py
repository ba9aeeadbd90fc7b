"""Spatial dropout at the bottleneck, with the encoder run once.

The network is traced once for a fixed batch shape with one mask an argument per perturbed layer.
Every operation that does not depend on a mask is the **prefix** (the encoder, and any part of the
decoder that sees only skips); the rest is the **suffix**. A tile then costs one prefix and
1 + N_pert suffixes, for any ``nn.Module``, TorchScript or exported program, without touching its
code (eq. 2 of Talks & Kreshuk, arXiv 2503.00450; dropout of whole maps: Tompson et al. 2015,
arXiv 1411.4280). Where a network cannot be traced, or its split is not provably equal to the plain
forward pass, the plain pass runs once a perturbation instead and says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cte_dask.errors import FOREIGN, reason, warn_of_own
from cte_dask.inference.graph import trace_cache as shared
from cte_dask.inference.graph.bottleneck import (
    BlackBoxError,
    bottleneck_module,
    hooked,
    reaches_output,
)
from cte_dask.inference.graph.masked_graph import masked_graph
from cte_dask.inference.graph.narrow import cut_to
from cte_dask.inference.graph.paths import FeaturePath, Form, Proof, Split, example_masks, form_of
from cte_dask.inference.graph.places import Core
from cte_dask.inference.graph.proving import (
    DIFFERS,
    cut_elsewhere,
    faster,
    formed,
    is_same,
    other_input,
    prove,
)
from cte_dask.inference.graph.split import UnreachedError, cut
from cte_dask.inference.graph.trace import traced
from cte_dask.inference.graph.trace_cache import Halves
from cte_dask.inference.memory import out_of_memory
from cte_dask.models.windows import Windows

if TYPE_CHECKING:
    from cte_dask.models.network import Network

__all__ = ["FeaturePath", "Plain", "Split", "bottleneck_of", "example_masks", "feature_path"]


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

    def decode(
        self, state: tuple[Tensor, ...], masks: Sequence[Tensor], *, cropped: bool = False
    ) -> Tensor:
        """See `FeaturePath.decode`."""
        with hooked(self.module, self.layers, lambda i, y: y * masks[i]):
            output: Tensor = self.module(state[0])
        return output


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


@torch.inference_mode(False)  # in it traces would hold operations that are made of others
def feature_path(
    network: Network,
    x: Tensor,
    *,
    names: Sequence[str] = (),
    core: Core | None = None,
    whole: bool = False,
    proof: Proof | None = None,
    small: Tensor | None = None,
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
    proof
        What was proven of the network for such batches; it is not proven again.
    small
        A smaller batch that the network takes, where the path will be compared on a real one: on
        it the weights of all networks of one architecture but the first are proven.

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
    if whole and network.kind != "module":
        raise BlackBoxError(f"its features cannot be perturbed: {DIFFERS} on a tile of the target")
    if whole:
        return _whole(network, x, names)
    if proof is not None and (names or proof.layers) == proof.layers:
        try:
            return _rebuilt(network, x, proof)
        except FOREIGN as error:
            warn_of_own(error)
    if network.kind == "module":
        return _module_path(network, x, tuple(names), core, small=small)
    return _graph_path(network.forward, x, tuple(names), core)


def moved_path(
    network: Network, x: Tensor, path: FeaturePath, extent: tuple[int, ...], *, reads: Core | None
) -> FeaturePath | None:
    """Return the path of batches whose voxels are moved; None if the network runs whole on them.

    Parameters
    ----------
    network
        The model.
    x
        A batch of the shape that they have.
    path, extent
        That of batches which are not moved, and their extent.
    reads
        What of an output is read to move it back; None for all of it.
    """
    if isinstance(path, Split) and tuple(x.shape[2:]) == extent:
        return cut_elsewhere(path, x, reads)
    with suppress(ValueError):
        return feature_path(network, x, names=path.layers, core=reads)
    return None


def _whole(network: Network, x: Tensor, names: Sequence[str]) -> Plain:
    module = network.forward
    layers = tuple(names) or _module_path(network, x, (), None, small=None).layers
    note = f"encoder not shared: {DIFFERS} on a tile of the target"
    return Plain(layers, _channels(module, layers, x), note, module)


def _module_path(
    network: Network,
    x: Tensor,
    names: tuple[str, ...],
    core: Core | None,
    *,
    small: Tensor | None,
    unused: tuple[str, ...] = (),
) -> FeaturePath:
    module = network.forward
    key = _key(network, names, x)
    known = shared.recall(key, module)
    layers = known.layers if known else names or (_bottleneck(module, x, unused),)
    channels = known.channels if known else _channels(module, layers, x if small is None else small)
    plain = Plain(layers, channels, "", module)
    try:
        if known is not None and (
            shared.form_of(key, core) or (core and shared.form_for_other(key))
        ):
            return _as_known(plain, known.halves, x, core, key=key, small=small)
        path = _as_first(plain, known.halves if known else None, x, core, key)
    # Tracing executes foreign code: whatever it raises, plain passes work.
    except FOREIGN as error:
        if out_of_memory(error):  # the batch is halved, and all is well
            raise
        warn_of_own(error)
        if known is not None:  # the weights decide more than numbers: a trace of its own
            return _module_path(replace(network, code=""), x, names, core, small=None)
        dead = isinstance(error, UnreachedError) and not reaches_output(module, layers, x)
        if dead and not names:
            return _module_path(network, x, names, core, small=small, unused=(*unused, *layers))
        return Plain(layers, channels, f"encoder not shared: {reason(error)}", module)
    if small is not None and not shared.keeps(_small_key(key, small)):
        try:
            _as_first(plain, None, small, None, _small_key(key, small))
        except FOREIGN as error:  # the next ones are proven on whole batches, too
            warn_of_own(error)
    return path


def _as_first(
    plain: Plain, halves: Halves | None, x: Tensor, core: Core | None, key: shared.Key
) -> Split:
    """Trace a network, unless that is done, prove it split, and find the form that it runs in."""
    masks = example_masks(x, plain.channels, random=True)
    with torch.no_grad():
        if halves is None:
            halves, want = _traced_halves(plain, x, masks)
        else:
            want = plain.run(x, masks)
    split = Split(plain.layers, plain.channels, "", *halves)
    proven = prove(split, x, masks, want, plain=plain.run)
    shared.keep(key, plain.module, plain.layers, plain.channels, halves)
    path = faster(proven, core)
    shared.keep_form(key, core, form_of(path))
    shared.keep_recipes(path)
    return path


def _key(network: Network, names: tuple[str, ...], x: Tensor) -> shared.Key:
    return (network.code, names, tuple(x.shape), x.dtype, str(x.device)) if network.code else None


def _small_key(key: shared.Key, small: Tensor) -> shared.Key:
    """Return the key of small batches that goes with a key, whatever its extent."""
    return None if key is None else (*key[:2], tuple(small.shape), *key[3:], "small")


def _traced_halves(plain: Plain, x: Tensor, masks: Sequence[Tensor]) -> tuple[Halves, Tensor]:
    """Trace a pass and cut the trace; the output of that pass is returned, too."""
    outputs: list[Tensor] = []

    def noted(x: Tensor, *masks: Tensor) -> Tensor:
        outputs.append(plain.run(x, masks))
        return outputs[-1]

    return cut(traced(noted, x, *masks)), outputs[0]


def _as_known(
    plain: Plain,
    halves: Halves,
    x: Tensor,
    core: Core | None,
    *,
    key: shared.Key,
    small: Tensor | None,
) -> Split:
    """Return a network of known architecture in its form, compared on two inputs.

    Where a small batch is given, its extent is that of the inputs: that the form is right at the
    extent of `x` was proven of the first network, and what a network's weights change of it shows
    at any extent.

    Raises
    ------
    ValueError
        If it is not the plain network.
    """
    filled = Split(plain.layers, plain.channels, "", *halves)
    with torch.no_grad():
        form = shared.form_of(key, core)
        if form is None:  # of a tile that lies elsewhere, all of the path is compared
            small, form = None, _form_for_other(core, key)
        path = tested = _formed(filled, form, x.device)
        like = None if small is None else shared.recall(_small_key(key, small), plain.module)
        place = core
        if small is not None and like is not None:
            x, place = small, None
            short = Split(plain.layers, plain.channels, "", *like.halves)
            tested = _formed(short, Form(form.kind), x.device)
        masks, other = example_masks(x, plain.channels, random=True), other_input(x)
        same = is_same(tested, x, masks, plain.run(x, masks)) and is_same(
            tested, other, masks, plain.run(other, masks), core=place
        )
    if not same:
        raise ValueError(DIFFERS)
    shared.keep_form(key, core, form)
    return path


def _formed(filled: Split, form: Form, device: torch.device) -> Split:
    """Return a filled trace in a form; what was done to its graph for others is not done again.

    Raises
    ------
    ValueError
        If its graph does not take that form.
    """
    path = filled if form.kind == "split" else shared.refilled(form.kind, filled)
    if path is None:
        path = formed(filled, form, device)
        shared.keep_recipes(path)
    if form.core is not None and (path := cut_to(path, form.core)) is None:
        raise ValueError("a tile depends on all of its frame")
    return path


def _form_for_other(core: Core | None, key: shared.Key) -> Form:
    """Return the form of an architecture for another core."""
    form = shared.form_for_other(key)
    if form is None:
        raise ValueError("no network of its architecture is known")
    return replace(form, core=core if form.core is not None else None)


def _rebuilt(network: Network, x: Tensor, proof: Proof) -> FeaturePath:
    """Return a network in the form that was proven, after a trace of it if none is kept."""
    module, (layers, channels) = network.forward, (proof.layers, proof.channels)
    key: shared.Key = None
    if proof.form is None:
        return Plain(layers, channels, proof.note, module)
    with torch.no_grad():
        if network.kind != "module":
            graph, _ = masked_graph(module, x, layers)
            halves = cut(graph)
        elif (known := shared.recall(key := _key(network, layers, x), module)) is not None:
            halves = known.halves
        else:
            plain, masks = (
                Plain(layers, channels, "", module),
                example_masks(x, channels, random=True),
            )
            halves, _ = _traced_halves(plain, x, masks)
            shared.keep(key, module, layers, channels, halves)
        return _formed(Split(layers, channels, "", *halves), proof.form, x.device)


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
    graph, nodes = masked_graph(forward, x, names)
    channels = tuple(node.meta["val"].shape[1] for node in nodes)
    layers = tuple(node.name for node in nodes)

    def plain(x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        output: Tensor = graph(x, *masks)
        return output

    masks = example_masks(x, channels, random=True)
    try:
        with torch.no_grad():
            split = Split(layers, channels, "", *cut(graph))
            proven = prove(split, x, masks, plain(x, masks), plain=plain)
    except ValueError as error:
        if names:  # the user asked for these layers
            raise
        raise BlackBoxError(f"its features cannot be perturbed: {error}") from error
    return faster(proven, core)
