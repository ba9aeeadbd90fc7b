"""Convolutions as operations of PyTorch: oneDNN runs them, or what is offered in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cte_dask.inference.graph.private_torch import LIBRARY, ONEDNN, ONEDNN_SUM

__all__ = ["Way", "empty", "offer"]


class Way(Protocol):
    """Another way to convolve."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: Sequence[int],
        steps: Sequence[Any],
        *,
        slope: float,
        added: Tensor | None,
    ) -> Tensor | None:
        """Return what a convolution gives; None to leave it to others.

        Parameters
        ----------
        x, weight, bias, padding
            As PyTorch's convolutions take them.
        steps
            Stride and dilation along each axis, and the number of groups.
        slope
            Factor of results below zero: 1 without an activation, 0 of a ReLU.
        added
            What is added before that, of the same shape.
        """


_WAYS: list[Way] = []
_SLOPES = {"none": 1.0, "relu": 0.0}


def offer(way: Way) -> None:
    """Let convolutions be run another way, where that takes them."""
    if way not in _WAYS:
        _WAYS.append(way)


def _offered(*arguments: Any, slope: float | None, added: Tensor | None = None) -> Tensor | None:
    if slope is None:
        return None
    results = (way(*arguments, slope=slope, added=added) for way in _WAYS)
    return next((result for result in results if result is not None), None)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *more: Any) -> Tensor:
    """Convolve and activate."""
    padding, *steps, activation, scalars, _ = more
    slope = _slope(activation, scalars)
    result = _offered(x, weight, bias, padding, steps, slope=slope)
    return ONEDNN(x, weight, bias, *more) if result is None else result


def _convolution_sum(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, *more: Any
) -> Tensor:
    """Convolve, add another array and activate."""
    padding, *steps, joined, factor, activation, scalars, _ = more
    slope = _slope(activation or "none", scalars)
    result = None
    if joined == "add" and factor in {1, None} and other.stride(1) == 1:
        result = _offered(x, weight, bias, padding, steps, slope=slope, added=other)
    return ONEDNN_SUM(x, other, weight, bias, *more) if result is None else result


def _slope(activation: str, scalars: Sequence[float | None]) -> float | None:
    """Return the factor for numbers below zero; None of another activation."""
    if activation == "leaky_relu" and scalars and scalars[0] is not None:
        return float(scalars[0])
    return _SLOPES.get(activation)


def empty(
    x: Tensor,
    weight: Tensor,
    padding: Sequence[int],
    stride: Sequence[int] = (1, 1, 1),
    dilation: Sequence[int] = (1, 1, 1),
) -> Tensor:
    """Return new memory for what a convolution gives, channels last."""
    along = zip(x.shape[2:], weight.shape[2:], padding, stride, dilation, strict=False)
    size = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in along)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    shape = len(x), len(weight), *size
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _outline(x: Tensor, weight: Tensor, *more: Any) -> Tensor:
    """Return what a convolution gives, without memory, as PyTorch's compiler wants to know it."""
    return empty(x, weight, *more[1:4])


def _outline_sum(x: Tensor, _: Tensor, *more: Any) -> Tensor:
    return _outline(x, *more)


LIBRARY.impl("convolution", _convolution, "CPU")
LIBRARY.impl("convolution", _outline, "Meta")
LIBRARY.impl("convolution_sum", _convolution_sum, "CPU")
LIBRARY.impl("convolution_sum", _outline_sum, "Meta")
