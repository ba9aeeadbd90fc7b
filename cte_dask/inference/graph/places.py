"""Places in maps: the tile in a frame, and boxes of what a graph computes."""

from __future__ import annotations

from torch import Tensor

__all__ = ["Box", "Core", "inner_view"]

Core = tuple[slice, ...]
"""Slices of the spatial axes."""
Box = tuple[tuple[int, int], ...]
"""First and past-last voxel along each spatial axis, on the grid of a map; empty for what is no
map."""


def inner_view(x: Tensor, core: Core) -> Tensor:
    """Return the view of (N, C, [z,] y, x) that lies in a box."""
    return x[(slice(None), slice(None), *core)]
