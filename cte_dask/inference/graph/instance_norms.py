"""Instance norms where the maps lie: without a copy to another layout and back.

PyTorch runs instance norm as a batch norm of N·C channels, for which it copies maps whose channels
lie last, and convolutions then copy them back: on such maps that takes longer than a convolution.
Here mean and variance of each map (Ulyanov et al. 2016, arXiv 1607.08022, eq. 4) are computed along
the voxels in the layout they have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

__all__ = ["VIEWS", "instance_norm_in_place"]

_ATEN = torch.ops.aten
VIEWS = {_ATEN.view.default, _ATEN._unsafe_view.default}
"""What gives the same numbers another shape."""


def instance_norm_in_place(module: GraphModule, norm: Node) -> None:
    """Let a norm run along the voxels, if it is an instance norm of maps whose channels lie last.

    Parameters
    ----------
    module
        A graph of ATen operations with shapes and strides of their results as ``meta["val"]``;
        changed.
    norm
        One of its nodes: other ones than batch norms that compute their statistics are left alone.
    """
    if norm.target is not _ATEN.native_batch_norm.default:
        return
    beside, *parameters, mean, variance, computed, _, epsilon = norm.args
    maps, back = _maps_of(beside), _maps_again(norm)
    if maps is None or back is None or not computed or (mean, variance) != (None, None):
        return
    if _value(back).shape == _value(maps).shape:
        with module.graph.inserting_before(back):
            result = _normalised(module.graph, maps, parameters, epsilon)
        back.replace_all_uses_with(result)


def _normalised(graph: Graph, maps: Node, parameters: Sequence[Any], epsilon: Any) -> Node:
    """Write the norm of maps (N, C, [z,] y, x) as operations on (N, voxels, C)."""
    call = graph.call_function
    n, channels, *extent = _value(maps).shape
    spatial = range(2, 2 + len(extent))
    last = call(_ATEN.permute.default, (maps, [0, *spatial, 1]))
    voxels = call(_ATEN.reshape.default, (last, [n, -1, channels]))
    middle = call(_ATEN.sub.Tensor, (voxels, call(_ATEN.mean.dim, (voxels, [1], True))))
    square = call(_ATEN.mul.Tensor, (middle, middle))
    variance = call(_ATEN.mean.dim, (square, [1], True))
    factor = call(_ATEN.rsqrt.default, (call(_ATEN.add.Tensor, (variance, epsilon)),))
    scale, shift = (
        None if p is None else call(_ATEN.view.default, (p, [n, 1, channels])) for p in parameters
    )
    if scale is not None:
        factor = call(_ATEN.mul.Tensor, (factor, scale))
    result = call(_ATEN.mul_.Tensor, (middle, factor))
    if shift is not None:
        result = call(_ATEN.add_.Tensor, (result, shift))
    whole = call(_ATEN.reshape.default, (result, [n, *extent, channels]))
    result = call(_ATEN.permute.default, (whole, [0, len(extent) + 1, *(d - 1 for d in spatial)]))
    result.meta = dict(maps.meta)
    return result


def _maps_of(beside: Any) -> Node | None:
    """Return the maps (N, C, …), channels last, that were reshaped to (1, N·C, …).

    They were copied for that, unless the convolution before them gave another layout then.
    """
    given = _argument(beside, VIEWS)
    maps = _argument(given, {_ATEN.clone.default}) or given
    if maps is None or "val" not in maps.meta:
        return None
    shape = _value(maps).shape
    merged = (1, shape[0] * shape[1], *shape[2:])
    return maps if tuple(_value(beside).shape) == merged and _lies_last(_value(maps)) else None


def _lies_last(maps: Tensor) -> bool:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(maps.ndim)
    return last is not None and maps.is_contiguous(memory_format=last)


def _maps_again(norm: Node) -> Node | None:
    """Return what reshapes the first result of a norm to maps, if nothing else uses it."""
    first = next((n for n in norm.users if n.target is getitem and n.args[1] == 0), None)
    users = list(first.users) if first is not None else []
    return users[0] if len(users) == 1 and users[0].target in VIEWS else None


def _argument(node: Any, targets: Collection[Any]) -> Node | None:
    """Return the first argument of a node that runs one of some operations."""
    if not isinstance(node, Node) or node.target not in targets:
        return None
    first = node.args[0]
    return first if isinstance(first, Node) else None


def _value(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value
