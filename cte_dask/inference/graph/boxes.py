"""What an operation reads of its input for a box of its result.

Along an axis, a convolution or a pool of k elements (apart by the dilation d), stride s and padding
p reads for its voxels a to b - 1 those from a·s - p to (b - 1)·s - p + (k - 1)·d (Dumoulin & Visin
2016, arXiv 1603.07285). An operation that is not known here is taken to read everything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from cte_dask.inference.graph.between import Between
from cte_dask.inference.graph.places import Box
from cte_dask.inference.graph.private_torch import (
    ADD_RELU,
    CONVOLUTION,
    CONVOLUTION_SUM,
    TRANSPOSED,
)
from cte_dask.inference.graph.weights import weight_of

__all__ = ["PADDINGS", "Step", "step_of", "whole_of"]

_ATEN = torch.ops.aten
_POINTWISE = {
    _ATEN._prelu_kernel.default,
    _ATEN.add.Tensor,
    _ATEN.add_.Tensor,
    _ATEN.clamp_min.default,
    _ATEN.clamp_min_.default,
    _ATEN.clone.default,
    _ATEN.detach.default,
    _ATEN.div.Tensor,
    _ATEN.elu.default,
    _ATEN.elu_.default,
    _ATEN.gelu.default,
    _ATEN.hardtanh.default,
    _ATEN.hardtanh_.default,
    _ATEN.leaky_relu.default,
    _ATEN.leaky_relu_.default,
    _ATEN.mul.Tensor,
    _ATEN.mul_.Tensor,
    _ATEN.relu.default,
    _ATEN.relu_.default,
    _ATEN.sigmoid.default,
    _ATEN.sigmoid_.default,
    _ATEN.silu.default,
    _ATEN.silu_.default,
    _ATEN.sub.Tensor,
    _ATEN.tanh.default,
    ADD_RELU,
}
_MAX_POOLS = {_ATEN.max_pool2d_with_indices.default, _ATEN.max_pool3d_with_indices.default}
_NORMS = {
    _ATEN.native_batch_norm.default,
    _ATEN._native_batch_norm_legit_no_training.default,
}
_COMPUTED = 5  # of native_batch_norm: whether the statistics are those of the batch
_REPEATED = {_ATEN.upsample_nearest2d.vec, _ATEN.upsample_nearest3d.vec}
PADDINGS = {
    _ATEN.constant_pad_nd.default,
    _ATEN.reflection_pad2d.default,
    _ATEN.reflection_pad3d.default,
    _ATEN.replication_pad2d.default,
    _ATEN.replication_pad3d.default,
}
_INTERPOLATED = {_ATEN.upsample_bilinear2d.vec, _ATEN.upsample_trilinear3d.vec}


@dataclass(slots=True)
class Step:
    """How an operation runs for a box of its result.

    Parameters
    ----------
    reads
        The box that it needs of each argument; all of one that is not named.
    gives
        The box that it gives then: what was asked for, or more.
    changed
        New arguments, by position.
    is_number
        Whether it runs not at all: every voxel of a map there has the same number.
    """

    reads: dict[Node, Box]
    gives: Box
    changed: dict[int, Any] = field(default_factory=dict)
    is_number: bool = False


def whole_of(node: Node) -> Box:
    """Return the box of all that a node gives; of a norm or a pool, that of its first result."""
    value = node.meta.get("val")
    if value is None and node.target in _MAX_POOLS | _NORMS:
        first = (n for n in node.users if n.target is operator.getitem and n.args[1] == 0)
        value = next((n.meta.get("val") for n in first), None)
    if not isinstance(value, Tensor) or value.ndim not in {4, 5}:
        return ()
    return tuple((0, n) for n in value.shape[2:])


def step_of(module: GraphModule, node: Node, box: Box) -> Step:
    """Return how a node runs for a box of its result.

    Parameters
    ----------
    module
        Its graph.
    node
        Calls an operation or a module.
    box
        What is asked for.
    """
    rule = _RULES.get(node.target)
    if node.op == "call_module":
        rule = _between
    if box and rule is not None:
        step = rule(module, node, box)
        if step is not None:
            return step
    return Step({n: whole_of(n) for n in node.all_input_nodes}, whole_of(node))


_Rule = Callable[[GraphModule, Node, Box], Step | None]


def _pointwise(_module: GraphModule, node: Node, box: Box) -> Step | None:
    reads = {}
    for argument in node.all_input_nodes:
        whole = whole_of(argument)
        if whole and len(whole) == len(box):  # of one voxel along an axis: the same for all
            reads[argument] = tuple(
                w if w == (0, 1) else b for w, b in zip(whole, box, strict=True)
            )
    return Step(reads, box)


def _first_result(_module: GraphModule, node: Node, box: Box) -> Step | None:
    source = node.args[0]
    if not isinstance(source, Node) or source.target not in _MAX_POOLS | _NORMS or node.args[1]:
        return None
    return Step({source: box}, box)


def _norm(_module: GraphModule, node: Node, box: Box) -> Step | None:
    if node.target is _ATEN.native_batch_norm.default and node.args[_COMPUTED]:
        return None
    others_unused = all(n.target is operator.getitem and n.args[1] == 0 for n in node.users)
    return Step({node.args[0]: box}, box) if others_unused else None  # type: ignore[dict-item]


def _joined(_module: GraphModule, node: Node, box: Box) -> Step | None:
    if list(node.args[1:]) != [1]:
        return None
    return Step(dict.fromkeys(node.all_input_nodes, box), box)


def _convolution(module: GraphModule, node: Node, box: Box) -> Step | None:
    if node.args[6]:
        return _transposed(module, node, box)
    weight = weight_of(module, node.args[1])
    if weight is None:
        return None
    stride, padding, dilation = node.args[3:6]
    windows = _windows(node, box, weight.shape[2:], (stride, padding, dilation))
    reads, gives, left = windows
    return Step({node.args[0]: reads}, gives, {4: left})  # type: ignore[dict-item]


def _fused(module: GraphModule, node: Node, box: Box) -> Step | None:
    shift = 1 if node.target is CONVOLUTION_SUM else 0
    weight = weight_of(module, node.args[1 + shift])
    if weight is None:
        return None
    padding, stride, dilation = node.args[3 + shift : 6 + shift]
    windows = _windows(node, box, weight.shape[2:], (stride, padding, dilation))
    reads, gives, left = windows
    step = Step({node.args[0]: reads}, gives, {3 + shift: left})  # type: ignore[dict-item]
    if shift:
        step.reads[node.args[1]] = gives  # type: ignore[index]
    return step


def _windows(
    node: Node, box: Box, kernel: Sequence[int], geometry: tuple[Any, Any, Any]
) -> tuple[Box, Box, list[int]]:
    """Return what windows read, the box they give, and the padding that is left.

    Along an axis where they reach beyond the map they keep their padding, at both ends: behind an
    end that is cut, they give voxels that nobody asked for.
    """
    reads, gives, left = [], [], []
    given = whole_of(node.args[0])  # type: ignore[arg-type]
    for (a, b), (_, n), k, s, p, d in zip(box, given, kernel, *geometry, strict=True):
        reach = (k - 1) * d + 1
        low, high = a * s - p, (b - 1) * s - p + reach
        if low >= 0 and high <= n:
            reads.append((low, high))
            gives.append((a, b))
            left.append(0)
            continue
        first = max(0, a - -(-p // s))
        low, high = first * s, min(n, high)
        reads.append((low, high))
        gives.append((first, first + (high - low + 2 * p - reach) // s + 1))
        left.append(p)
    return tuple(reads), tuple(gives), left


def _pool(_module: GraphModule, node: Node, box: Box) -> Step | None:
    dims = len(box)

    def option(position: int, default: int) -> list[int]:
        value: Any = node.args[position] if len(node.args) > position else default
        values = list(value) if isinstance(value, list | tuple) else [value]
        return values * dims if len(values) == 1 else values

    kernel = option(1, 1)
    stride = option(2, 0) if len(node.args) > 2 and node.args[2] else kernel
    padding = option(3, 0)
    is_max = node.target in _MAX_POOLS
    dilation = option(4, 1) if is_max else [1] * dims
    partial = option(5 if is_max else 4, 0)[0]  # whether windows may reach over the end
    unused = not is_max or all(n.target is operator.getitem and not n.args[1] for n in node.users)
    if not unused or partial or (not is_max and any(padding)):
        return None
    reads, gives, left = _windows(node, box, kernel, (stride, padding, dilation))
    changed = {3: left} if any(padding) else {}
    return Step({node.args[0]: reads}, gives, changed)  # type: ignore[dict-item]


def _transposed(module: GraphModule, node: Node, box: Box) -> Step | None:
    plain = node.target is _ATEN.convolution.default
    weight = weight_of(module, node.args[1])
    if plain:
        stride, padding, dilation, _, more = node.args[3:8]
        position = 4
    else:
        padding, more, stride, dilation = node.args[3:7]
        position = 3
    if weight is None or any(d != 1 for d in dilation):  # type: ignore[union-attr]
        return None
    reads, gives, left, behind = [], [], [], []
    maps: Any = node.args[0]
    axes = zip(box, whole_of(maps), weight.shape[2:], stride, padding, more, strict=True)  # type: ignore[arg-type]
    for (a, b), (_, n), k, f, p, extra in axes:
        low = max(0, min(-(-(a + p - k + 1) // f), a // f))
        high = min(n, max((b - 1 + p) // f + 1, -(-(b + 2 * p - k) // f) + 1))
        behind.append(extra if high == n else 0)
        start, stop = low * f, (high - 1) * f - 2 * p + k + behind[-1]
        # more padding leaves out voxels at both ends
        out = max(0, min(a - start, stop - b, k - 1 - p))
        reads.append((low, high))
        gives.append((start + out, stop - out))
        left.append(p + out)
    if any(g[0] > a or g[1] < b for g, (a, b) in zip(gives, box, strict=True)):
        return None
    changed: dict[int, Any] = {position: left}
    if any(more):  # type: ignore[arg-type]
        changed[7 if plain else 4] = behind
    return Step({maps: tuple(reads)}, tuple(gives), changed)


def _enlarged(_module: GraphModule, node: Node, box: Box) -> Step | None:
    factors: Any = node.args[-1]
    if node.args[1] is not None or not factors or any(f != int(f) for f in factors):
        return None
    smooth = node.target in _INTERPOLATED
    if smooth and node.args[2]:  # corners aligned: every voxel moves with the extent
        return None
    reads, gives = [], []
    axes = zip(box, whole_of(node.args[0]), map(int, factors), strict=True)  # type: ignore[arg-type]
    for (a, b), (_, n), f in axes:
        more = 1 if smooth else 0  # a neighbour on each side
        low, high = max(0, a // f - more), min(n, -(-b // f) + more)
        reads.append((low, high))
        gives.append((low * f, high * f))
    return Step({node.args[0]: tuple(reads)}, tuple(gives))  # type: ignore[dict-item]


def _shuffled(_module: GraphModule, node: Node, box: Box) -> Step:
    factor: Any = node.args[1]
    reads = tuple((a // factor, -(-b // factor)) for a, b in box)
    gives = tuple((a * factor, b * factor) for a, b in reads)
    return Step({node.args[0]: reads}, gives)  # type: ignore[dict-item]


def _padded(_module: GraphModule, node: Node, box: Box) -> Step | None:
    """Numbers from the map's border or from elsewhere in it: those of a constant alone are cut."""
    maps, pads, *_ = node.args
    whole = whole_of(maps)  # type: ignore[arg-type]
    ends: Any = list(pads)  # type: ignore[arg-type]
    befores = [*[0] * (len(whole) - len(ends) // 2), *ends[-2::-2]]
    reads, left = [], []
    for (a, b), (_, n), before in zip(box, whole, befores, strict=True):
        if b <= before or a >= before + n:  # padding alone
            return None
        low, high = min(max(a - before, 0), n - 1), max(min(b - before, n), 1)
        reads.append((low, high))
        left.append((max(0, before - a), max(0, b - before - n)))
    if node.target is not _ATEN.constant_pad_nd.default and any(map(any, left)):
        return None
    around = [n for pair in reversed(left) for n in pair]
    return Step({maps: tuple(reads)}, box, {1: around})  # type: ignore[dict-item]


def _between(module: GraphModule, node: Node, box: Box) -> Step | None:
    called = module.get_submodule(str(node.target))
    if isinstance(called, Between) and called.is_inside(box, whole_of(node)):
        return Step({}, box, is_number=True)
    return None


_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_MAX_POOLS, _pool),
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(_REPEATED | _INTERPOLATED, _enlarged),
    **dict.fromkeys(PADDINGS, _padded),
    _ATEN.pixel_shuffle.default: _shuffled,
    _ATEN.avg_pool2d.default: _pool,
    _ATEN.avg_pool3d.default: _pool,
    _ATEN.cat.default: _joined,
    _ATEN.convolution.default: _convolution,
    operator.getitem: _first_result,
    CONVOLUTION: _fused,
    CONVOLUTION_SUM: _fused,
    TRANSPOSED: _transposed,
}
