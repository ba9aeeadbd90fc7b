"""Checks of maps and parameters that all segmenters share, and distances in voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cte_dask.arrays import Array

__all__ = [
    "check_at_least",
    "check_fraction",
    "check_sizes",
    "check_spacing",
    "checked_maps",
    "spaced",
    "spacing_of",
]


def checked_maps(maps: Array, channels: Sequence[str], optional: Sequence[str] = ()) -> list[Array]:
    """Return the maps one by one.

    Parameters
    ----------
    maps
        Shape (C, y, x) or (C, z, y, x), floating, integer or bool.
    channels
        Names of the channels, in order.
    optional
        The trailing ones that may be left out.

    Returns
    -------
    list of ndarray
        One map a channel that is there.

    Raises
    ------
    ValueError
        If the number of axes or channels is wrong, or a map holds NaN.
    TypeError
        If the maps are not real numbers.
    """
    least = len(channels) - len(optional)
    if maps.ndim not in {3, 4} or not least <= maps.shape[0] <= len(channels):
        raise ValueError(
            f"maps of shape {maps.shape} must be (C, y, x) or (C, z, y, x) with the channels "
            f"{tuple(channels)}"
            + (f", of which {tuple(optional)} may be left out" * bool(optional))
        )
    if maps.dtype.kind not in "fiub":
        raise TypeError(f"maps must be real numbers, not {maps.dtype}")
    # the minimum is NaN if any element is, and needs no mask as large as the maps
    if maps.dtype.kind == "f" and maps.size and math.isnan(float(maps.min())):
        raise ValueError("maps hold NaN: the network failed on this tile, it cannot be segmented")
    return list(maps)


def spaced(distance: float, spacing: Sequence[float] | None, axes: int) -> list[float]:
    """Return a distance in voxels along each axis.

    Parameters
    ----------
    distance
        The distance, in the units of `spacing`.
    spacing
        Extent of a voxel along z, y, x (the last `axes` count); None for 1.
    axes
        Number of spatial axes.
    """
    return [distance / s for s in spacing_of(spacing, axes)]


def spacing_of(spacing: Sequence[float] | None, axes: int) -> list[float]:
    """Return the extent of a voxel along each of the last `axes` of z, y, x."""
    return [1.0] * axes if spacing is None else [float(s) for s in spacing[-axes:]]


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless a value is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} {value} must be at least 0 and below 1")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise ValueError unless a value is finite and large enough."""
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name} {value} must be finite and at least {least}")


def check_sizes(min_size: int, max_size: int | None) -> None:
    """Raise ValueError unless some object has a size between the two."""
    check_at_least("min_size", min_size, 0)
    if max_size is not None and max_size < max(min_size, 1):
        raise ValueError(
            f"max_size {max_size} must be at least 1 and min_size {min_size}, or None for no limit"
        )


def check_spacing(spacing: Sequence[float] | None) -> None:
    """Raise ValueError unless a spacing has three positive extents."""
    if spacing is not None and (len(spacing) != 3 or not all(s > 0 for s in spacing)):
        raise ValueError(f"spacing {spacing} must be three positive extents (z, y, x), or None")
