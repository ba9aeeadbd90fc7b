"""The part of a network's state that the scored core of a tile depends on.

A tile is read with the halo of the whole network, most of which its encoder uses up: the decoder
sees far less around the core. What the decoder reads is cut to that before it runs. How far it sees
is found by NaN, which no weight can hide: a slab of the state set to NaN shows which voxels of the
output it reaches, and a cut is taken only if NaN everywhere outside it leaves the core finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

__all__ = ["Core", "Crop", "Reach", "find_crop", "find_reach", "inner_view"]

Core = tuple[slice, ...]
"""Slices of the spatial axes."""


def inner_view(x: Tensor, core: Core) -> Tensor:
    """Return the view of (N, C, [z,] y, x) that lies in a box."""
    for axis, place in enumerate(core):
        x = x.narrow(2 + axis, place.start, place.stop - place.start)
    return x


@dataclass(frozen=True, slots=True)
class Crop:
    """Where the state of a split network is cut.

    Parameters
    ----------
    start, stop
        What is left of the network's input (spatial axes, voxels).
    core
        Where the tile lies in what is left.
    extent
        The network's input (spatial axes, voxels).
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    core: Core
    extent: tuple[int, ...]

    def cut(self, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return copies of the maps, cut alike whatever their stride, in their own layout."""
        return tuple(self._cut(map_) for map_ in state)

    def _cut(self, map_: Tensor) -> Tensor:
        left = inner_view(map_, self.inside(map_))
        return torch.empty_like(left, memory_format=_layout(map_)).copy_(left)

    def inside(self, map_: Tensor) -> Core:
        """Return the slices of a map that are left."""
        ends = zip(self.start, self.stop, self.extent, map_.shape[2:], strict=True)
        return tuple(slice(a * m // n, b * m // n) for a, b, n, m in ends)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the maps of a state reach in an output, along each spatial axis.

    Parameters
    ----------
    steps
        Smallest steps, in voxels, that all maps can be cut at.
    reach
        In steps.
    extent
        Of the output, voxels.
    """

    steps: tuple[int, ...]
    reach: tuple[int, ...]
    extent: tuple[int, ...]

    def crop(self, core: Core) -> Crop | None:
        """Return what a core depends on; None if that is everything."""
        axes = list(zip(core, self.steps, self.reach, self.extent, strict=True))
        starts = tuple(max(0, c.start // s - r) * s for c, s, r, _ in axes)
        stops = tuple(min(n // s, -(-c.stop // s) + r) * s for c, s, r, n in axes)
        if not any(starts) and stops == self.extent:
            return None
        moved = tuple(slice(c.start - a, c.stop - a) for c, a in zip(core, starts, strict=True))
        return Crop(starts, stops, moved, self.extent)


def find_reach(
    suffix: GraphModule, state: Sequence[Tensor], masks: Sequence[Tensor]
) -> Reach | None:
    """Find how far a state reaches, which depends on how a network is built, not on its weights.

    Parameters
    ----------
    suffix
        (*state, *masks) -> y; plain operations, that pass NaN on.
    state
        For one batch.
    masks
        One a perturbed layer.

    Returns
    -------
    Reach or None
        None where it cannot be told.
    """
    output = suffix(*state, *masks)
    extent = tuple(output.shape[2:])
    if any(m.ndim != output.ndim for m in state) or not bool(output.isfinite().all()):
        return None
    steps = tuple(_step(extent[a], [m.shape[2 + a] for m in state]) for a in range(len(extent)))
    if not all(steps):
        return None
    reach = tuple(
        _reach(suffix, state, masks, axis=a, step=s, extent=n)
        for a, (s, n) in enumerate(zip(steps, extent, strict=True))
    )
    return Reach(steps, reach, extent)


def find_crop(
    suffix: GraphModule,
    state: Sequence[Tensor],
    masks: Sequence[Tensor],
    core: Core,
    reach: Reach | None,
) -> Crop | None:
    """Return how much of a state the core depends on, if the core stays finite without the rest.

    Parameters
    ----------
    suffix, state, masks
        As `find_reach` takes them.
    core
        Where the tile lies in the output.
    reach
        How far the state reaches; None where it is not known.

    Returns
    -------
    Crop or None
        None where nothing can be left out.
    """
    crop = None if reach is None else reach.crop(core)
    return crop if crop is not None and _enough(crop, suffix, state, masks, core) else None


def _step(extent: int, extents: Sequence[int]) -> int:
    """Return the smallest step that all maps can be cut at along an axis; 0 if there is none."""
    if any(extent % n for n in extents):
        return 0
    return math.lcm(*(extent // n for n in extents))


def _reach(
    suffix: GraphModule,
    state: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    axis: int,
    step: int,
    extent: int,
) -> int:
    """Return how many steps away along an axis of an extent a map reaches the output."""
    dim = 2 + axis
    middle = extent // step // 2
    spoilt = []
    for map_ in state:
        scale = step * map_.shape[dim] // extent
        copy = map_.clone()
        copy.narrow(dim, middle * scale, scale).fill_(math.nan)
        spoilt.append(copy)
    hit = suffix(*spoilt, *masks).isnan()
    others = [d for d in range(hit.ndim) if d != dim]
    places = torch.nonzero(hit.any(dim=others) if others else hit).ravel()
    if not len(places):
        return extent  # nothing there reaches the output: leave nothing out
    before = middle * step - int(places.min())
    after = int(places.max()) + 1 - (middle + 1) * step
    return -(-max(before, after, 0) // step)


def _enough(
    crop: Crop, suffix: GraphModule, state: Sequence[Tensor], masks: Sequence[Tensor], core: Core
) -> bool:
    """Whether the core stays finite when all that is left out is NaN."""
    spoilt = []
    for map_ in state:
        copy = torch.full_like(map_, math.nan)
        inside = crop.inside(map_)
        inner_view(copy, inside).copy_(inner_view(map_, inside))
        spoilt.append(copy)
    return bool(inner_view(suffix(*spoilt, *masks), core).isfinite().all())


def _layout(map_: Tensor) -> torch.memory_format:
    last = torch.channels_last if map_.ndim == 4 else torch.channels_last_3d
    return last if map_.is_contiguous(memory_format=last) else torch.contiguous_format
