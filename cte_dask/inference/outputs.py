"""From a network's output to what is compared: foreground, classes, maps for a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from cte_dask.arrays import from_torch

if TYPE_CHECKING:
    from cte_dask.inference.segmenters import Segmenter
    from cte_dask.models.output import Output
    from cte_dask.models.spec import ModelSpec

__all__ = [
    "Prediction",
    "foreground",
    "resized",
    "segmenter_channels",
    "segmenter_maps",
    "segmenter_of",
]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one pass predicts for T tiles.

    Parameters
    ----------
    foreground
        One array a foreground class (one in all for a binary model): probabilities, float32
        (T, z, y, x). Of a multi-class model zero wherever another class is more probable.
    labels
        Instance labels, int32 (T, z, y, x), 0 the background; None if none were asked for.
    """

    foreground: tuple[Any, ...]
    labels: Any | None = None


def foreground(output: Tensor, convention: Output) -> Tensor:
    """Return the foreground maps of an output in float32, (S, C, …) → (S, K, …).

    Raises
    ------
    ValueError
        If a channel does not exist.
    """
    wanted = convention.classes or (convention.channel,)
    _check_channels(output, wanted)
    if convention.activation == "labels":
        return (output[:, [convention.channel]] > 0).float()
    if convention.classes:
        probabilities = _activated(output, convention)
        best = probabilities.argmax(dim=1, keepdim=True)
        return torch.cat([probabilities[:, [c]] * (best == c) for c in convention.classes], dim=1)
    if convention.activation == "softmax":
        return torch.softmax(output.float(), dim=1)[:, [convention.channel]]
    return _activated(output[:, convention.channel : convention.channel + 1], convention)


def resized(x: Tensor, extent: Sequence[int], *, nearest: bool = False) -> Tensor:
    """Resample (S, C, [z,] y, x) to an extent: means where it shrinks, linear where it grows.

    Parameters
    ----------
    x
        Images, or a network's output before its activation.
    extent
        The new extent; its last axes are those of `x`.
    nearest
        Take the nearest voxel instead, for labels.
    """
    old, new = tuple(x.shape[2:]), tuple(extent[-(x.ndim - 2) :])
    if old == new:
        return x
    if nearest:
        return functional.interpolate(x.double(), new, mode="nearest-exact").to(x.dtype)
    shrunk = tuple(min(a, b) for a, b in zip(old, new, strict=True))
    if shrunk != old:
        x = functional.interpolate(x, shrunk, mode="area")
    linear = "bilinear" if len(new) == 2 else "trilinear"
    return x if shrunk == new else functional.interpolate(x, new, mode=linear)


def _activated(output: Tensor, convention: Output) -> Tensor:
    output = output.float()
    if convention.activation == "softmax":
        return torch.softmax(output, dim=1)
    return torch.sigmoid(output) if convention.activation == "sigmoid" else output.contiguous()


def _check_channels(output: Tensor, wanted: Sequence[int]) -> None:
    for channel in wanted:
        if channel >= output.shape[1]:
            raise ValueError(
                f"output channel {channel} does not exist: the network gives {output.shape[1]}"
            )


def segmenter_of(spec: ModelSpec) -> Segmenter | None:
    """Return the segmenter of a model; None for a model that gives labels itself.

    Raises
    ------
    ValueError
        If it does not exist, or its parameters or channels do not fit.
    """
    from cte_dask.inference.segmenters import segmenter

    if spec.output.activation == "labels":
        return None
    if spec.segmenter is None:
        return segmenter("components", threshold=spec.output.threshold)
    made = segmenter(spec.segmenter.name, **spec.segmenter.parameters)
    unknown = set(spec.segmenter.channels) - set(made.channels) - {"affinities"}
    if unknown:
        raise ValueError(
            f"segmenter {spec.segmenter.name!r} has no channel {sorted(unknown)}: it wants "
            f"{', '.join(made.channels)}"
        )
    segmenter_channels(spec, made)
    return made


def segmenter_channels(spec: ModelSpec, made: Segmenter) -> tuple[int, ...]:
    """Return the output channels that make up a segmenter's maps, in its order."""
    named = spec.segmenter.channels if spec.segmenter else {}
    channels: list[int] = []
    affinities = named.get("affinities")
    if affinities is not None:
        channels += [affinities] if isinstance(affinities, int) else affinities
    for name in made.channels[len(channels) :]:
        place = named.get(name, spec.output.channel if name == "foreground" else None)
        if place is None or (name in made.optional and name not in named):
            if name in made.optional:
                break
            raise ValueError(
                f"model {spec.name!r}: its segmenter wants a channel {name!r}: name it in "
                "segmenter.channels"
            )
        channels += [place] if isinstance(place, int) else place
    return tuple(channels)


def segmenter_maps(output: Tensor, spec: ModelSpec, channels: Sequence[int]) -> Any:
    """Return the maps of a segmenter as an array (S, C, …), activated, on the output's device."""
    if spec.output.activation == "labels":
        return from_torch(output[:, spec.output.channel].to(torch.int32))
    _check_channels(output, channels)
    return from_torch(_activated(output, spec.output)[:, list(channels)].contiguous())
