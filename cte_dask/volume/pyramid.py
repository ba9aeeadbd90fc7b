"""Image pyramids in memory: means of two for images, nearest voxels for labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["halved_axes", "mean_pyramid", "nearest_pyramid"]


def halved_axes(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """Return the positions of the axes that the next level halves: spatial, more than one voxel."""
    return tuple(a for a, n in enumerate(shape) if axes[a] in "zyx" and n > 1)


def mean_pyramid(image: NDArray[Any], *, axes: str, n_levels: int) -> list[NDArray[Any]]:
    """Return an image and its successive means of 2, in its own element type.

    Parameters
    ----------
    image
        The image.
    axes
        Its axes, letters of ``tczyx``; z, y and x are halved where there is more than one voxel.
        An odd last voxel counts twice.
    n_levels
        Largest number of levels.

    Returns
    -------
    list of ndarray
        The levels, finest first; they end where nothing is left to halve.
    """
    levels = [image]
    while len(levels) < n_levels and (halved := halved_axes(levels[-1].shape, axes)):
        level = levels[-1]
        for axis in halved:
            level = _mean_of_two(level, axis)
        levels.append(_cast(level, image.dtype))
    return levels


def _mean_of_two(image: NDArray[Any], axis: int) -> NDArray[Any]:
    first = np.arange(0, image.shape[axis], 2)
    # an odd last voxel is its own partner
    second = np.minimum(first + 1, image.shape[axis] - 1)
    pair = np.take(image, first, axis=axis).astype(np.float64), np.take(image, second, axis=axis)
    return np.asarray((pair[0] + pair[1]) / 2)


def _cast(image: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    # a plain cast would round integers down, and darken each level
    return (np.rint(image) if dtype.kind in "ui" else image).astype(dtype)


def nearest_pyramid(labels: NDArray[Any], *, axes: str, n_levels: int) -> list[NDArray[Any]]:
    """Return labels and their successive levels, each with every second voxel of the last.

    Labels are names, of which no mean exists. Parameters as for :func:`mean_pyramid`.
    """
    levels = [labels]
    while len(levels) < n_levels and (halved := halved_axes(levels[-1].shape, axes)):
        steps = (slice(None, None, 2 if a in halved else 1) for a in range(labels.ndim))
        levels.append(levels[-1][tuple(steps)])
    return levels
