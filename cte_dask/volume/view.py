"""A stored array as one zyx volume: one channel and time point, boxes of it, reflected edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.tiles import Shape
from cte_dask.volume.box import Box, triple
from cte_dask.volume.image import Selection, Source

__all__ = ["ZyxView", "gather", "reflected"]


@dataclass(frozen=True)
class ZyxView:
    """One channel and time point of a source, with the axes z, y, x.

    Parameters
    ----------
    source
        The stored array.
    axes
        Axes of the stored array, letters of ``tczyx`` in its order; a missing z is one plane.
    channel, time
        Index along c and t; None if the array has no such axis.
    format
        Reference ``"module:function"`` of the volume format from outside that found the array;
        empty for a listed format.
    member
        Which of several images of one group the array belongs to; see `Image`.
    """

    source: Source
    axes: str
    channel: int | None = None
    time: int | None = None
    format: str = ""
    member: str = ""

    @property
    def url(self) -> str:
        """Target for `open_volume`: the URL of the store, behind the format from outside if any."""
        return f"{self.format}::{self.source.url}" if self.format else self.source.url

    @property
    def name(self) -> str:
        """URL of the store and path of the array, joined."""
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
        # the source dropped c and t, which were indexed; what remains may be stored as xzy
        spatial = [axis for axis in self.axes if axis in "zyx"]
        data = data.transpose([spatial.index(axis) for axis in "zyx" if axis in spatial])
        return data if "z" in spatial else data[np.newaxis]

    def missing(self, box: Box) -> int:
        """Return how many storage objects of a box within the array are omitted."""
        return self.source.missing(self._selection(box))

    def _selection(self, box: Box) -> Selection:
        slices = dict(zip("zyx", map(slice, box.start, box.stop), strict=True))
        by_axis: dict[str, slice | int] = {"c": self.channel or 0, "t": self.time or 0, **slices}
        return tuple(by_axis[axis] for axis in self.axes)


def gather(view: ZyxView, indices: list[NDArray[np.intp]]) -> NDArray[Any]:
    """Read the voxels at the outer product of three index arrays, in one read.

    Parameters
    ----------
    view
        The stored array.
    indices
        Indices along z, y and x; each covers one contiguous range, in any order.

    Returns
    -------
    ndarray
        The voxels (z, y, x).
    """
    low = triple(along.min() for along in indices)
    high = triple(along.max() + 1 for along in indices)
    data = view.read(Box(low, high))
    for axis, (along, first) in enumerate(zip(indices, low, strict=True)):
        # away from the array's edges the box is the answer, and needs no copy
        if not np.array_equal(along, np.arange(first, first + data.shape[axis])):
            data = np.take(data, along - first, axis=axis)
    return np.ascontiguousarray(data)


def reflected(start: int, stop: int, extent: int) -> NDArray[np.intp]:
    """Return the index in the array for each of ``[start, stop)``, reflected at the edges.

    The semantics of ``numpy.pad(mode="reflect")``: the edge voxel is not repeated, the pattern
    goes on for any distance, and a single voxel is repeated.

    Parameters
    ----------
    start, stop
        The range of indices, which may lie outside the array.
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
    indices = np.arange(start, stop)
    if extent == 1:
        return np.zeros_like(indices)
    # 0 1 2 3 2 1 | 0 1 2 3 2 1: there and back without repeating the ends
    period = 2 * (extent - 1)
    folded = indices % period
    return np.minimum(folded, period - folded)
