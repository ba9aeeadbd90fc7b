"""Fewer passes over memory: norms folded into convolutions, sums and activations fused with them.

In evaluation mode batch norm is an affine map of each channel, which the weights of the convolution
before it absorb (Jacob et al. 2018, arXiv 1712.05877, eq. 14). On the CPU all convolutions are
oneDNN's, and what follows one (the sum with a residual connection, the activation) then runs inside
it. Sums are rounded in another place than in the plain network: predictions differ by some units in
the last place.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from cte_dask.inference.graph import convolutions  # noqa: F401 - runs what is written here
from cte_dask.inference.graph.boxes import PADDINGS
from cte_dask.inference.graph.constants import compute_constants
from cte_dask.inference.graph.instance_norms import VIEWS, instance_norm_in_place
from cte_dask.inference.graph.private_torch import (
    CONVOLUTION,
    CONVOLUTION_SUM,
    TRANSPOSED,
    LazyGraph,
    conv_flop_count,
    register_flop_formula,
)
from cte_dask.inference.graph.weights import Held, Made, note, weight_of

__all__ = ["fused"]

_ATEN = torch.ops.aten
_NORMS = {
    # position of the epsilon among the arguments
    _ATEN.native_batch_norm.default: 7,
    _ATEN.cudnn_batch_norm.default: 7,
    _ATEN._native_batch_norm_legit_no_training.default: 6,
}
_ACTIVATIONS = {
    _ATEN.relu.default: "relu",
    _ATEN.relu_.default: "relu",
    _ATEN.leaky_relu.default: "leaky_relu",
    _ATEN.leaky_relu_.default: "leaky_relu",
    _ATEN.silu.default: "swish",
    _ATEN.silu_.default: "swish",
}
_SUMS = {_ATEN.add.Tensor, _ATEN.add_.Tensor}
_GROWING = {
    # the form that is told a factor, not an extent
    _ATEN.upsample_nearest2d.default: _ATEN.upsample_nearest2d.vec,
    _ATEN.upsample_nearest3d.default: _ATEN.upsample_nearest3d.vec,
    _ATEN.upsample_bilinear2d.default: _ATEN.upsample_bilinear2d.vec,
    _ATEN.upsample_trilinear3d.default: _ATEN.upsample_trilinear3d.vec,
}
_SLOPE = 0.01  # of leaky_relu where it is left to PyTorch
_BIAS, _TRANSPOSED, _CONVOLUTION_ARGUMENTS = 2, 6, 9


@register_flop_formula(TRANSPOSED.overloadpacket)
def _flops_transposed(
    x: Sequence[int],
    w: Sequence[int],
    *_more: object,
    out_shape: Sequence[int] | None = None,
    **_: object,
) -> int:
    count: int = conv_flop_count(list(x), list(w), list(out_shape or ()), transposed=True)
    return count


@register_flop_formula([CONVOLUTION.overloadpacket, CONVOLUTION_SUM.overloadpacket])
def _flops(
    x: Sequence[int],
    w: Sequence[int],
    *more: Sequence[int] | None,
    out_shape: Sequence[int] | None = None,
    **_: object,
) -> int:
    if more and more[0] is not None and len(more[0]) == len(w):
        w = more[0]  # the form with a sum has the other array before the weights
    count: int = conv_flop_count(list(x), list(w), list(out_shape or ()))
    return count


def fused(half: GraphModule, device: torch.device) -> GraphModule:
    """Return a graph with its batch norms folded and its activations fused, where they can be.

    Parameters
    ----------
    half
        A graph of ATen operations whose weights are attributes; it is left as it is.
    device
        Where it runs; on the CPU alone convolutions are handed to oneDNN, with the sums and
        activations behind them.

    Returns
    -------
    GraphModule
        The same function up to rounding.
    """
    graph = torch.fx.Graph()
    result = graph.graph_copy(half.graph, {})
    if result is not None:
        graph.output(result)
    graph.eliminate_dead_code()  # of a norm's results, only the first is of use
    # the copy's weights live where the original's do
    module = LazyGraph(half, graph)
    compute_constants(module)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _NORMS:
            _fold(module, node)
        if node.op == "call_function" and node.target in _GROWING:
            _grow_by_factor(node)
    graph.eliminate_dead_code()
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        # each step takes what the one before it left
        for step in _STEPS:
            for node in list(graph.nodes):
                if node.op == "call_function":
                    step(module, node)
            graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _fold(module: GraphModule, norm: Node) -> None:
    """Fold a batch norm into the convolution before it, if nothing else sees what lies between."""
    parameters = norm.args[1:5]
    source, result = _convolution(norm.args[0]), _only_user(norm)
    if (
        source is None
        or result is None
        or result.target is not operator.getitem
        or result.args[1] != 0
        or (norm.args[5] is not False and _NORMS[norm.target] == 7)  # type: ignore[index]
    ):
        return
    wanted = (source.args[1], source.args[_BIAS], *parameters)
    weight, bias, gain, offset, mean, variance = (_name(module, node) for node in wanted)
    if weight is None or mean is None or variance is None:
        return
    epsilon = float(norm.args[_NORMS[norm.target]])  # type: ignore[arg-type, index]
    scale = partial(_scale, variance=variance, gain=gain, epsilon=epsilon)
    new = (
        _put(module, source, "weight", partial(_folded, weight=weight, scale=scale)),
        _put(
            module,
            source,
            "bias",
            partial(_shift, weight=weight, bias=bias, mean=mean, offset=offset, scale=scale),
        ),
    )
    source.args = (source.args[0], *new, *source.args[3:])
    result.replace_all_uses_with(source)


def _name(module: GraphModule, node: Any) -> str | None:
    """Return the name of the weight that a node of a graph stands for; None if it is no weight."""
    return None if weight_of(module, node) is None else str(node.target)


def _scale(held: Held, *, variance: str, gain: str | None, epsilon: float) -> Tensor:
    scale: Tensor = (held(variance).double() + epsilon).rsqrt()
    return scale if gain is None else scale * held(gain).double()


def _folded(held: Held, *, weight: str, scale: Made) -> Tensor:
    plain = held(weight)
    folded = plain.double() * scale(held).reshape(-1, *(1,) * (plain.ndim - 1))
    return torch.empty_like(plain).copy_(folded.to(plain.dtype))  # in the layout that it had


def _shift(
    held: Held, *, weight: str, bias: str | None, mean: str, offset: str | None, scale: Made
) -> Tensor:
    factor = scale(held)
    shift: Tensor = -held(mean).double() * factor
    if bias is not None:
        shift = shift + held(bias).double() * factor
    if offset is not None:
        shift = shift + held(offset).double()
    return shift.to(held(weight).dtype)


def _grow_by_factor(node: Node) -> None:
    """Let an interpolation grow its input by a whole factor, so that it serves any extent."""
    x, extent, *options = node.args
    if not isinstance(x, Node) or "val" not in x.meta:
        return
    old, new = x.meta["val"].shape[2:], list(extent)  # type: ignore[arg-type]
    if any(n % o for o, n in zip(old, new, strict=True)):
        return
    aligned = options[:1] if "linear" in str(node.target) else []
    factors = [float(n // o) for o, n in zip(old, new, strict=True)]
    node.args = (x, None, *aligned, factors)
    node.target = _GROWING[node.target]  # type: ignore[index]


def _hand_over(module: GraphModule, node: Node) -> None:
    """Let oneDNN run a convolution, which PyTorch by itself runs without it where maps are small.

    Without it PyTorch copies each map once for every element of the kernel.
    """
    if node.target is not _ATEN.convolution.default or len(node.args) != _CONVOLUTION_ARGUMENTS:
        return
    x, weight, bias, stride, padding, dilation, transposed, more, groups = node.args
    held = weight_of(module, weight)
    if held is None or held.dtype != torch.float32 or held.ndim not in {4, 5}:
        return
    target = TRANSPOSED if transposed else CONVOLUTION
    shifts = (padding, more) if transposed else (padding,)
    arguments = (x, weight, bias, *shifts, stride, dilation, groups, "none", [], "")
    new = _replace(module, node, target, arguments)
    last = torch.channels_last if held.ndim == 4 else torch.channels_last_3d
    # oneDNN follows the weights
    if "val" in new.meta and held.stride(1) == 1 and held.is_contiguous(memory_format=last):
        new.meta["val"] = new.meta["val"].contiguous(memory_format=last)


def _drop_padding(_module: GraphModule, node: Node) -> None:
    """Drop padding by nothing: decoders pad what fits already."""
    if node.target in PADDINGS and not any(node.args[1]):  # type: ignore[arg-type]
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]


def _reshape(_module: GraphModule, node: Node) -> None:
    """Let a view of maps hold in another layout, too."""
    if node.target in VIEWS:
        node.target = _ATEN.reshape.default


def _add_inside(module: GraphModule, node: Node) -> None:
    """Let oneDNN add another array inside the convolution before a sum."""
    if node.target not in _SUMS or len(node.args) != 2 or node.kwargs:
        return
    one, other = node.args
    # a sum in place is that of its first array
    pairs = [(one, other)] if node.target is _ATEN.add_.Tensor else [(one, other), (other, one)]
    for source, added in pairs:
        if (
            isinstance(added, Node)
            and _is_bare(source)
            and source.target is CONVOLUTION
            and _extent(added) == _extent(source)
        ):
            x, weight, bias, *geometry = source.args[:7]
            arguments = (x, added, weight, bias, *geometry, "add", 1, None, [], None)
            _replace(module, node, CONVOLUTION_SUM, arguments)
            return


def _activate_inside(module: GraphModule, node: Node) -> None:
    """Let oneDNN apply an activation inside the convolution before it."""
    if node.target not in _ACTIVATIONS or not _is_bare(source := node.args[0]):
        return
    name = _ACTIVATIONS[node.target]
    arguments = list(source.args)
    if source.target is CONVOLUTION_SUM:
        if name != "relu":  # of what follows a sum, oneDNN has this alone
            return
        arguments[-3] = name
    else:
        slope = node.args[1] if len(node.args) > 1 else _SLOPE
        arguments[-3:-1] = [name, [slope] if name == "leaky_relu" else []]
    _replace(module, node, source.target, tuple(arguments))


def _replace(module: GraphModule, node: Node, target: Any, arguments: tuple[Any, ...]) -> Node:
    """Put another operation in the place of a node.

    The node is erased at once: one that works in place would stay, and run, though nothing uses it.
    """
    with module.graph.inserting_before(node):
        new = module.graph.call_function(target, arguments)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)
    return new


def _is_bare(node: Any) -> TypeGuard[Node]:
    """Tell whether a node is a convolution of oneDNN, without activation, that one other uses."""
    if not isinstance(node, Node) or len(node.users) != 1:
        return False
    if node.target is CONVOLUTION_SUM:
        return node.args[-3] is None
    return node.target in {CONVOLUTION, TRANSPOSED} and node.args[-3] == "none"


def _extent(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape) if "val" in node.meta else ()


def _convolution(node: Any) -> Node | None:
    """Return an ordinary convolution, whose output channels lead its weights, with one user."""
    if (
        isinstance(node, Node)
        and node.target is _ATEN.convolution.default
        and len(node.args) == _CONVOLUTION_ARGUMENTS
        and not node.args[_TRANSPOSED]
        and len(node.users) == 1
    ):
        return node
    return None


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _put(module: GraphModule, convolution: Node, role: str, made: Made) -> Node:
    name = f"_folded_{convolution.name}_{role}"
    while hasattr(module, name):  # of a norm behind a norm
        name += "_"
    note(module, name, made)
    module.register_buffer(name, made(partial(getattr, module)))
    with module.graph.inserting_before(convolution):
        return module.graph.get_attr(name)


_STEPS = (
    _drop_padding,
    _hand_over,
    instance_norm_in_place,
    _reshape,
    _add_inside,
    _activate_inside,
)
