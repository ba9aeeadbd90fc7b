"""Finding the bottleneck: where feature perturbation acts.

Of the layers run for one tile, the bottleneck is the last one whose output has the smallest spatial
extent before the extent grows again (Talks & Kreshuk, arXiv 2503.00450, sec. 2.2). Layers are
modules, watched by forward hooks, or the nodes of a traced graph where a format has no modules.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from cte_dask.errors import FOREIGN
from cte_dask.models.one_image import tensors_of

__all__ = [
    "BlackBoxError",
    "LayerCall",
    "bottleneck_module",
    "bottleneck_node",
    "hooked",
    "layer_names",
    "reaches_output",
]

Edit = Callable[[int, Tensor], Tensor]


_CHANNELS_FIRST = re.compile("conv|batch_?norm|instance_?norm|group_?norm|pool|upsample")
_REORDERS = re.compile("permute|transpose|view|reshape|layer_norm|mm|linear|einsum|movedim")
"""Names of operations by which axes change places, or that have their channels last."""


class BlackBoxError(ValueError):
    """The network's features cannot be reached; its input can still be perturbed."""


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One finished call of a layer: its name, output extent (spatial) and channels."""

    name: str
    extent: tuple[int, ...]
    channels: int

    @property
    def size(self) -> int:
        """Number of voxels of the output."""
        return math.prod(self.extent)


def bottleneck_module(module: nn.Module, x: Tensor, *, unused: Collection[str] = ()) -> str:
    """Return the name of the bottleneck module of a network.

    Parameters
    ----------
    module
        The network, in eval mode.
    x
        One batch, (N, C, [z,] y, x).
    unused
        Layers, by the same names, whose output is used for nothing.

    Returns
    -------
    str
        Qualified module name; ``name@k`` when the module is called several times and its k-th call
        (from 0) is the bottleneck.

    Raises
    ------
    BlackBoxError
        If no module's output is smaller than its input.
    """
    calls = _module_calls(module, x)
    if min((math.prod(c.extent) for c in calls), default=0) == 1:
        calls = _without_global_pooling(calls, module, x)
    if any(_doubtful(c, x) for c in calls):
        calls = _without_channels_last(
            calls,
            x,
            run=lambda longer: _module_calls(module, longer),
            first=lambda c: _is_channels_first(module.get_submodule(c.name.partition("@")[0])),
        )
    return _choose([c for c in calls if c.name not in unused], x).name


def reaches_output(module: nn.Module, layers: Sequence[str], x: Tensor) -> bool:
    """Tell whether the output of a network depends on some layers, by NaN in their place.

    Parameters
    ----------
    module, layers
        The network, and names of its layers.
    x
        One batch, (N, C, [z,] y, x).
    """
    try:
        with torch.no_grad(), hooked(module, layers, lambda _, y: torch.full_like(y, math.nan)):
            output = module(x)
    except FOREIGN:  # what does not take NaN uses it
        return True
    return bool(output.isnan().any())


def _without_global_pooling(
    calls: Sequence[LayerCall], module: nn.Module, x: Tensor
) -> list[LayerCall]:
    """Drop layers whose output is one voxel whatever the input: squeeze-excite, not bottleneck."""
    twice = _module_calls(module, x.repeat(1, 1, *(2,) * (x.ndim - 2)))
    pooled = {c.name for c in twice if c.size == 1}
    return [c for c in calls if c.name not in pooled]


def _doubtful(call: LayerCall, x: Tensor) -> bool:
    """Whether what is taken for channels may be an axis of the image, the channels standing last.

    A network that keeps (N, y, x, C) inside, as transformers do, has such outputs wherever as
    many channels stand there as voxels in a row.
    """
    return call.channels * x.shape[3] == call.extent[0] * x.shape[2]


def _without_channels_last(
    calls: Sequence[LayerCall],
    x: Tensor,
    *,
    run: Callable[[Tensor], Sequence[LayerCall]],
    first: Callable[[LayerCall], bool],
) -> list[LayerCall]:
    """Drop layers whose channels, read first, grow with the input.

    Of a network that takes no other input, those stay whose operation has its channels first.
    """
    longer = x.repeat(1, 1, 2, *(1,) * (x.ndim - 3))
    try:
        steady = {(c.name, c.channels) for c in run(longer)}
    except FOREIGN:
        steady = {(c.name, c.channels) for c in calls if first(c)}
    return [c for c in calls if not _doubtful(c, x) or (c.name, c.channels) in steady]


def _is_channels_first(module: nn.Module) -> bool:
    return bool(_CHANNELS_FIRST.search(type(module).__name__.lower()))


def _follows_channels_first(node: Node) -> bool:
    """Whether a node holds, in its order of axes, what a convolution or the like gave."""
    while node.op == "call_function" and not _REORDERS.search(node.name):
        if _CHANNELS_FIRST.search(node.name):
            return True
        before = node.all_input_nodes
        if not before:
            return False
        node = before[0]
    return False


def bottleneck_node(graph: Graph, x: Tensor, *, retrace: Callable[[Tensor], Graph]) -> Node:
    """Return the bottleneck node of a graph traced for the batch `x`.

    Parameters
    ----------
    graph
        The graph.
    x
        The batch.
    retrace
        Gives the graph for another batch.

    Raises
    ------
    BlackBoxError
        If no node's output is smaller than the input.
    """
    nodes = {call.name: node for call, node in _node_calls(graph, x)}
    calls = [call for call, _ in _node_calls(graph, x)]
    if any(_doubtful(c, x) for c in calls):
        calls = _without_channels_last(
            calls,
            x,
            run=lambda longer: [c for c, _ in _node_calls(retrace(longer), longer)],
            first=lambda c: _follows_channels_first(nodes[c.name]),
        )
    return nodes[_choose(calls, x).name]


def _choose(calls: Sequence[LayerCall], x: Tensor) -> LayerCall:
    smallest = min((c.size for c in calls), default=0)
    if not calls or smallest >= math.prod(x.shape[2:]):
        raise BlackBoxError(
            "no bottleneck found: no layer's output is smaller than its input; "
            "name one with `bottleneck:` in the bank"
        )
    first = next(i for i, c in enumerate(calls) if c.size == smallest)
    chosen = calls[first]
    for call in calls[first:]:
        if call.size != smallest:
            break
        chosen = call
    return chosen


def _module_calls(module: nn.Module, x: Tensor) -> list[LayerCall]:
    finished: list[tuple[str, Tensor]] = []
    last: list[object] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            if _is_map(output, x):
                finished.append((name, output))  # type: ignore[arg-type]

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in module.named_modules() if n]
    # before the hook that interpolates an output of low resolution: it is no feature map
    root = module.get_submodule("")
    handles.append(root.register_forward_hook(lambda *call: last.append(call[2]), prepend=True))
    try:
        with torch.no_grad():
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    results = {id(t) for output in last for t in tensors_of(output).values()}
    maps = [(name, t) for name, t in finished if id(t) not in results]
    return _numbered([(name, tuple(t.shape[2:]), t.shape[1]) for name, t in maps])


def _numbered(outputs: list[tuple[str, tuple[int, ...], int]]) -> list[LayerCall]:
    """Tell apart repeated calls of one module: ``name@0``, ``name@1`` and so on."""
    total = Counter(name for name, _, _ in outputs)
    seen: Counter[str] = Counter()
    calls = []
    for name, extent, channels in outputs:
        label = name if total[name] == 1 else f"{name}@{seen[name]}"
        seen[name] += 1
        calls.append(LayerCall(label, extent, channels))
    return calls


def _is_map(output: object, x: Tensor) -> bool:
    """Return whether an output is a batch of feature maps, channels first."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    if output.ndim != x.ndim or output.shape[0] != x.shape[0]:
        return False
    # networks pool y and x alike: what they do not shrink alike are channels, which stand last
    height, width = output.shape[-2:]
    return bool(height * x.shape[-1] == width * x.shape[-2]) or min(height, width) == 1


def _node_calls(graph: Graph, x: Tensor) -> Iterator[tuple[LayerCall, Node]]:
    placeholder = next(n for n in graph.nodes if n.op == "placeholder")
    downstream, last = {placeholder}, _before_interpolation(graph)
    for node in graph.nodes:
        if node.op != "call_function" or downstream.isdisjoint(node.all_input_nodes):
            continue
        downstream.add(node)
        value = node.meta.get("val")
        if node is not last and _is_map(value, x):
            yield LayerCall(node.name, tuple(value.shape[2:]), value.shape[1]), node


def _before_interpolation(graph: Graph) -> Node | None:
    """Return the output at low resolution that the graph ends by interpolating, if it does."""
    (result,) = (n.args[0] for n in graph.nodes if n.op == "output")
    if isinstance(result, Node) and "upsample" in result.name:
        return result.all_input_nodes[0]
    return None


def layer_names(module: nn.Module) -> list[str]:
    """Return the names that `bottleneck:` and `layers:` of a bank may use for this network."""
    return [name for name, _ in module.named_modules() if name]


@contextmanager
def hooked(module: nn.Module, layers: Sequence[str], edit: Edit) -> Iterator[None]:
    """Replace the outputs of the named layers by ``edit(ordinal, output)`` inside the context.

    Parameters
    ----------
    module
        The network.
    layers
        Module names, ``name@k`` for only the k-th call of a module.
    edit
        Called with the layer's position in `layers` and its output.

    Raises
    ------
    ValueError
        If a layer does not exist.
    """
    named = dict(module.named_modules())
    handles = []
    try:
        for ordinal, layer in enumerate(layers):
            name, _, call = layer.partition("@")
            if name not in named:
                raise ValueError(f"no layer {layer!r} in the network; it has {_few(named)}")
            hook = _edit_hook(edit, ordinal, int(call) if call else None)
            handles.append(named[name].register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _edit_hook(
    edit: Edit, ordinal: int, only: int | None
) -> Callable[[nn.Module, object, Tensor], Tensor]:
    calls = iter(range(1 << 62))

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        call = next(calls)
        return output if only is not None and call != only else edit(ordinal, output)

    return hook


def _few(names: dict[str, nn.Module], most: int = 8) -> str:
    listed = [n for n in names if n]
    return ", ".join(listed[:most]) + (f" … ({len(listed)} in all)" if len(listed) > most else "")
