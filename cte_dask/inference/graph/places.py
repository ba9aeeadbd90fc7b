"""Places in maps: the tile in a frame, and boxes of what a graph computes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

__all__ = ["Box", "Core", "inner_view", "seen_at"]

Core = tuple[slice, ...]
"""Slices of the spatial axes."""
Box = tuple[tuple[int, int], ...]
"""First and past-last voxel along each spatial axis, on the grid of a map; empty for what is no
map."""


def inner_view(x: Tensor, core: Core) -> Tensor:
    """Return the view of (N, C, [z,] y, x) that lies in a box."""
    return x[(slice(None), slice(None), *core)]


def seen_at(core: Core, shape: Sequence[int], extent: Sequence[int]) -> Core:
    """Return where a box of a frame lies in what a network sees of the frame.

    Where that is resampled, it is what a network's output is read from to bring the box back to the
    frame's voxels: all that its voxels overlap with, and a neighbour a side to interpolate with.

    Parameters
    ----------
    core
        The box, in voxels of the frame.
    shape, extent
        Extent of the frame, and that at which the network sees it; their last axes are the box's.

    Examples
    --------
    >>> seen_at((slice(10, 20), slice(10, 20)), (1, 40, 40), (1, 40, 20))
    (slice(10, 20, None), slice(4, 11, None))
    """
    axes = zip(core, shape[-len(core) :], extent[-len(core) :], strict=True)
    return tuple(box if n == seen else _seen_along(box, n, seen) for box, n, seen in axes)


def _seen_along(box: slice, n: int, seen: int) -> slice:
    first, last = box.start * seen // n - 1, math.ceil(box.stop * seen / n) + 1
    return slice(max(0, first), min(seen, last))
