"""Convolutions of enlarged maps as one transposed convolution of the small ones.

A decoder enlarges maps (repeats each voxel, or a transposed convolution without overlap) and
convolves the result. Both are linear with nothing between: together they are a transposed
convolution, of stride f and f + k - 1 elements an axis. Of these an output voxel meets
(f + k - 1) / f along each axis, where the convolution of the enlarged maps meets k: for f = 2 and
k = 3 in three dimensions 8 in place of 27. (Shi et al. 2016, arXiv 1609.07009, say the same of the
convolution by itself.) Sums are rounded in another order than in the plain network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from cte_dask.inference.graph.between import Between
from cte_dask.inference.graph.private_torch import (
    ADD_RELU,
    CONVOLUTION,
    CONVOLUTION_SUM,
    TRANSPOSED,
)
from cte_dask.inference.graph.weights import Held, note, notes_of, weight_of

__all__ = ["merge_upsampling"]

_ATEN = torch.ops.aten
_REPEATED = {_ATEN.upsample_nearest2d.vec, _ATEN.upsample_nearest3d.vec}
_ACTIVATIONS = {
    "relu": _ATEN.relu_.default,
    "leaky_relu": _ATEN.leaky_relu_.default,
    "swish": _ATEN.silu_.default,
}
_WORTH = 0.9
"""Of the operations of both: more are not saved if another pass over the result is needed."""


@dataclass(frozen=True, slots=True)
class _Enlarged:
    """Maps, and how they are enlarged: by a factor an axis, with weights where it learnt them."""

    maps: Node | None
    factors: tuple[int, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    names: tuple[str | None, str | None] = (None, None)
    """Of weight and bias."""

    @property
    def bare(self) -> _Enlarged:
        """The same without any maps or weights, but their names."""
        return _Enlarged(None, self.factors, names=self.names)

    def filled(self, held: Held) -> _Enlarged:
        """Return the same with other weights of these names."""
        weight, bias = (None if name is None else held(name) for name in self.names)
        return replace(self, weight=weight, bias=bias)


@dataclass(frozen=True, slots=True)
class _Convolved:
    """A convolution of stride 1, and the array that it adds, if any."""

    maps: Node
    added: Node | None
    weight: Tensor
    name: str
    bias: Any
    padding: tuple[int, ...]
    activation: str
    scalars: list[Any]


def merge_upsampling(passes: GraphModule, once: GraphModule | None = None) -> None:
    """Merge what enlarges maps with the convolution behind it, where that saves operations.

    Parameters
    ----------
    passes
        A fused graph (`cte_dask.inference.graph.fold_and_fuse`); changed.
    once
        What gives its state, if parts of convolutions were taken out of it
        (`cte_dask.inference.graph.skip_once`); changed.
    """
    for node in list(passes.graph.nodes):
        convolved = _convolved(passes, node)
        enlarged = convolved and _enlarged(passes, convolved.maps)
        if convolved and enlarged and _is_worth(enlarged, convolved.weight):
            _merge(passes, once, node, enlarged, convolved)
    for graph in (passes, once):
        if graph is not None:
            graph.graph.eliminate_dead_code()
            graph.recompile()


def _convolved(module: GraphModule, node: Node) -> _Convolved | None:
    if node.target not in {CONVOLUTION, CONVOLUTION_SUM}:
        return None
    maps, *rest = node.args
    added = rest.pop(0) if node.target is CONVOLUTION_SUM else None
    activation, scalars = rest[-3] or "none", rest[-2]
    node_of_weight, bias, padding, stride, dilation, groups = rest[:6]
    weight = weight_of(module, node_of_weight)
    if weight is None or not isinstance(maps, Node) or groups != 1:
        return None
    if any(n != 1 for n in (*stride, *dilation)):  # type: ignore[misc]
        return None
    shape = weight.shape[2:]
    around = tuple(padding)  # type: ignore[arg-type]
    if any(p >= k for p, k in zip(around, shape, strict=True)):
        return None
    name = str(node_of_weight.target)  # type: ignore[union-attr]
    return _Convolved(maps, added, weight, name, bias, around, activation, scalars)  # type: ignore[arg-type]


def _enlarged(module: GraphModule, node: Node) -> _Enlarged | None:
    """Return what enlarges maps by whole factors, voxel by voxel, if one convolution sees it."""
    if len(node.users) != 1 or not isinstance(node.args[0] if node.args else None, Node):
        return None
    maps: Node = node.args[0]  # type: ignore[assignment]
    if node.target in _REPEATED:
        factors = node.args[2]
        if not isinstance(factors, Sequence) or any(f != int(f) for f in factors):  # type: ignore[arg-type]
            return None
        return _Enlarged(maps, tuple(int(f) for f in factors))  # type: ignore[arg-type]
    if node.target is not TRANSPOSED:
        return None
    _, held, bias, padding, more, stride, dilation, groups, activation, *_ = node.args
    weight = weight_of(module, held)
    if (
        weight is None
        or (bias is not None and weight_of(module, bias) is None)
        or any((*padding, *more))  # type: ignore[misc]
        or any(d != 1 for d in dilation)  # type: ignore[union-attr]
        or (groups, activation) != (1, "none")
        or tuple(stride) != weight.shape[2:]  # type: ignore[arg-type]
    ):
        return None
    names = (str(held.target), None if bias is None else str(bias.target))  # type: ignore[union-attr]
    return _Enlarged(maps, tuple(stride), weight, weight_of(module, bias), names)  # type: ignore[arg-type]


def _is_worth(enlarged: _Enlarged, weight: Tensor) -> bool:
    """Tell whether together they multiply less often than one after the other."""
    out, between, *kernel = weight.shape
    maps = between if enlarged.weight is None else len(enlarged.weight)
    met = [(f + k - 1) / f for f, k in zip(enlarged.factors, kernel, strict=True)]
    apart = math.prod(kernel) * between * out
    if enlarged.weight is not None:
        apart += maps * between
    return math.prod(met) * maps * out < _WORTH * apart


def _merge(
    passes: GraphModule,
    once: GraphModule | None,
    node: Node,
    enlarged: _Enlarged,
    convolved: _Convolved,
) -> None:
    """Put one transposed convolution in the place of two operations."""
    weight = _merged_weight(enlarged, convolved.weight)
    passes.register_buffer(name := f"_merged_{node.name}", weight)
    note(passes, name, partial(_remade_weight, enlarged=enlarged.bare, weight=convolved.name))
    kernel = convolved.weight.shape[2:]
    padding = [k - 1 - p for k, p in zip(kernel, convolved.padding, strict=True)]
    ones, none = [1] * len(kernel), [0] * len(kernel)
    geometry = (padding, none, list(enlarged.factors), ones, 1)
    added, constant = convolved.added, _constant(enlarged, convolved)
    between = f"_between_{node.name}"
    if constant is not None:
        remade = partial(_remade_constant, enlarged=enlarged.bare, padding=convolved.padding)
        note(passes, between, partial(remade, weight=convolved.name))
    if constant and added and once and _add_once(once, added, constant, between):
        constant = None
        for noted, made in notes_of(passes).items():
            note(once, noted, made)
    with passes.graph.inserting_before(node):
        call = passes.graph.call_function
        arguments = (enlarged.maps, passes.graph.get_attr(name), convolved.bias, *geometry)
        if constant is None and added is None:
            given = (convolved.activation, convolved.scalars, "")
            result = call(TRANSPOSED, (*arguments, *given))
        else:
            result = call(TRANSPOSED, (*arguments, "none", [], ""))
            result.meta = dict(node.meta)
            if constant is not None:
                passes.add_submodule(between, constant)
                border = _called(passes, between, result)
                result = call(_ATEN.add_.Tensor, (result, border))
            result = _finished(passes, result, added, convolved)
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    passes.graph.erase_node(node)


def _finished(passes: GraphModule, result: Node, added: Node | None, convolved: _Convolved) -> Node:
    """Add an array, and apply the activation."""
    call = passes.graph.call_function
    if added is not None and convolved.activation == "relu":
        return call(ADD_RELU, (result, added))
    if added is not None:
        result = call(_ATEN.add_.Tensor, (result, added))
    if convolved.activation == "none":
        return result
    return call(_ACTIVATIONS[convolved.activation], (result, *convolved.scalars))


def _remade_weight(held: Held, *, enlarged: _Enlarged, weight: str) -> Tensor:
    return _merged_weight(enlarged.filled(held), held(weight))


def _remade_constant(
    held: Held, *, enlarged: _Enlarged, weight: str, padding: tuple[int, ...]
) -> Between:
    """Return what the bias adds, for other weights; where it is zero, nothing."""
    return _between(held(str(enlarged.names[1])), held(weight), padding)


def _merged_weight(enlarged: _Enlarged, weight: Tensor) -> Tensor:
    """Return the weights (C, C', …) of both, C maps that are enlarged and convolved to C'.

    With u the enlarging weights (of f elements an axis) and w those of the convolution (of k), they
    are at i the sum of u[j]·w[t] over all j - t + k - 1 = i.
    """
    out, between, *kernel = weight.shape
    rows = between if enlarged.weight is None else len(enlarged.weight)
    extent = [f + k - 1 for f, k in zip(enlarged.factors, kernel, strict=True)]
    merged = torch.zeros(*extent, rows, out, dtype=torch.float64)
    taps = weight.double().permute(*range(2, weight.ndim), 1, 0)
    steps = None
    if enlarged.weight is not None:
        steps = enlarged.weight.double().permute(*range(2, weight.ndim), 0, 1)
    for j in product(*(range(f) for f in enlarged.factors)):
        for t in product(*(range(k) for k in kernel)):
            at = tuple(a - b + k - 1 for a, b, k in zip(j, t, kernel, strict=True))
            merged[at] += taps[t] if steps is None else steps[j] @ taps[t]
    merged = merged.permute(weight.ndim - 2, weight.ndim - 1, *range(weight.ndim - 2))
    last = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    return merged.to(weight.dtype).contiguous(memory_format=last)


def _constant(enlarged: _Enlarged, convolved: _Convolved) -> Between | None:
    """Return what the bias of the enlarging weights adds to the result; None if nothing."""
    if enlarged.bias is None or not bool(enlarged.bias.any()):
        return None
    return _between(enlarged.bias, convolved.weight, convolved.padding)


def _between(bias: Tensor, weight: Tensor, padding: tuple[int, ...]) -> Between:
    across = (1, -1, *(1,) * (weight.ndim - 2))
    sums = (weight.double() * bias.double().reshape(across)).sum(1, keepdim=True)
    return Between(sums.to(weight.dtype), padding)


def _add_once(once: GraphModule, added: Node, constant: Between, name: str) -> bool:
    """Add a constant to a part that is convolved once, if that is what is added."""
    output = next(n for n in once.graph.nodes if n.op == "output")
    prefix = "state_half_"
    if added.op != "placeholder" or not added.name.startswith(prefix):
        return False
    results = list(output.args[0])
    states = len(results) - sum(1 for n in added.graph.nodes if n.name.startswith(prefix))
    index = states + int(added.name.removeprefix(prefix))
    once.add_submodule(name, constant)
    with once.graph.inserting_before(output):
        part = results[index]
        border = _called(once, name, part)
        results[index] = once.graph.call_function(_ATEN.add_.Tensor, (part, border))
        results[index].meta = dict(part.meta)
    output.args = (tuple(results),)
    return True


def _called(module: GraphModule, name: str, maps: Node) -> Node:
    """Call what gives the constant of some maps."""
    border = module.graph.call_module(name, (maps,))
    if "val" in maps.meta:
        border.meta = {"val": maps.meta["val"][:1]}
    return border
