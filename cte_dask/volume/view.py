"""A stored array seen as one zyx volume: one channel, one time point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.tiles import Shape
from cte_dask.volume.box import Box, triple
from cte_dask.volume.image import Selection, Source

__all__ = ["View", "gather", "reflected"]


@dataclass(frozen=True)
class View:
    """One channel and time point of a source, as zyx.

    Parameters
    ----------
    source
        The stored array.
    axes
        Its axes, letters of ``tczyx`` in its order; a missing z is one plane.
    channel, time
        What is taken along c and t; None if there is no such axis.
    format
        As of :class:`~cte_dask.volume.image.Image`.
    """

    source: Source
    axes: str
    channel: int | None = None
    time: int | None = None
    format: str = ""

    @property
    def url(self) -> str:
        """What `open_volume` finds the store by: its URL, after the format that it needs."""
        return f"{self.format}::{self.source.url}" if self.format else self.source.url

    @property
    def name(self) -> str:
        """URL and path in one."""
        return f"{self.url}/{self.source.path}" if self.source.path else self.url

    @property
    def shape(self) -> Shape:
        """Extent in voxels (z, y, x)."""
        return self._zyx(self.source.shape)

    @property
    def chunks(self) -> Shape:
        """Extent of a chunk in voxels (z, y, x)."""
        return self._zyx(self.source.chunks)

    @property
    def shards(self) -> Shape | None:
        """Extent of a shard in voxels (z, y, x), None if there are none."""
        return None if self.source.shards is None else self._zyx(self.source.shards)

    def _zyx(self, extents: tuple[int, ...]) -> Shape:
        by_axis = dict(zip(self.axes, extents, strict=True))
        return by_axis.get("z", 1), by_axis["y"], by_axis["x"]

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box within the array, as zyx.

        Raises
        ------
        VolumeReadError
            If stored voxels cannot be read.
        """
        data = self.source.read(self._selection(box))
        kept = [axis for axis in self.axes if axis in "zyx"]
        data = data.transpose([kept.index(axis) for axis in "zyx" if axis in kept])
        return data if "z" in kept else data[np.newaxis]

    def missing(self, box: Box) -> int:
        """Return how many storage objects of a box within the array are omitted."""
        return self.source.missing(self._selection(box))

    def _selection(self, box: Box) -> Selection:
        slices = dict(zip("zyx", map(slice, box.start, box.stop), strict=True))
        chosen: dict[str, slice | int] = {"c": self.channel or 0, "t": self.time or 0, **slices}
        return tuple(chosen[axis] for axis in self.axes)


def gather(view: View, wanted: list[NDArray[np.intp]]) -> NDArray[Any]:
    """Read the voxels at the outer product of three index arrays, in one read.

    Parameters
    ----------
    view
        The stored array.
    wanted
        Indices along z, y and x; each covers one contiguous range, in any order.

    Returns
    -------
    ndarray
        The voxels (z, y, x).
    """
    low = triple(indices.min() for indices in wanted)
    high = triple(indices.max() + 1 for indices in wanted)
    data = view.read(Box(low, high))
    for axis, (indices, first) in enumerate(zip(wanted, low, strict=True)):
        if not np.array_equal(indices, np.arange(first, first + data.shape[axis])):
            data = np.take(data, indices - first, axis=axis)
    return np.ascontiguousarray(data)


def reflected(start: int, stop: int, extent: int) -> NDArray[np.intp]:
    """Return where each index of ``[start, stop)`` lies after reflection at the edges.

    The semantics of ``numpy.pad(mode="reflect")``: the edge voxel is not repeated, the pattern
    goes on for any distance, and a single voxel is repeated.

    Parameters
    ----------
    start, stop
        The wanted indices; may lie outside the array.
    extent
        Number of voxels along the axis.

    Returns
    -------
    ndarray of int
        ``stop - start`` indices in ``[0, extent)``; neighbours differ by at most one, so they
        cover one contiguous range.

    Examples
    --------
    >>> reflected(-3, 5, 3).tolist()
    [1, 2, 1, 0, 1, 2, 1, 0]
    """
    wanted = np.arange(start, stop)
    if extent == 1:
        return np.zeros_like(wanted)
    period = 2 * (extent - 1)
    folded = wanted % period
    return np.minimum(folded, period - folded)
