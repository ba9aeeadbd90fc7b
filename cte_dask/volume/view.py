"""A stored array as one zyx volume: a channel and time point, boxes of it, reflected edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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

    def read(self, box: Box, channels: Sequence[int] = ()) -> NDArray[Any]:
        """Return the voxels of a box within the array, as czyx.

        Channels that lie in one chunk, or in chunks side by side, are read together.

        Parameters
        ----------
        box
            The box.
        channels
            Indices along c, in any order; empty for the one channel of this view.

        Raises
        ------
        VolumeReadError
            If stored voxels cannot be read.
        """
        if "c" not in self.axes or not channels:
            return self._read(box, self.channel or 0)
        wanted = tuple(channels)
        runs = self._runs(sorted(set(wanted)))
        if wanted == tuple(range(wanted[0], wanted[0] + len(wanted))) and len(runs) == 1:
            return self._read(box, slice(wanted[0], wanted[-1] + 1))
        held: dict[int, NDArray[Any]] = {}
        for run in runs:
            data = self._read(box, slice(run[0], run[-1] + 1))
            held.update((c, data[c - run[0]]) for c in run)
        return np.stack([held[c] for c in wanted])

    def _runs(self, channels: list[int]) -> list[list[int]]:
        """Group channels so that the slice around a group touches no chunk that holds none."""
        axis = self.axes.index("c")
        unit = (self.source.shards or self.source.chunks)[axis]
        runs = [channels[:1]]
        for before, channel in pairwise(channels):
            if channel // unit - before // unit > 1:
                runs.append([])
            runs[-1].append(channel)
        return runs

    def _read(self, box: Box, channel: slice | int) -> NDArray[Any]:
        data = self.source.read(self._selection(box, channel))
        # the source dropped what was indexed; what remains may be stored as xzcy
        stored = [a for a in self.axes if a in "zyx" or (a == "c" and isinstance(channel, slice))]
        data = data.transpose([stored.index(axis) for axis in "czyx" if axis in stored])
        data = data if "z" in stored else np.expand_dims(data, -3)
        return data if "c" in stored else data[np.newaxis]

    def missing(self, box: Box) -> int:
        """Return how many storage objects of a box within the array are omitted."""
        return self.source.missing(self._selection(box, self.channel or 0))

    def _selection(self, box: Box, channel: slice | int) -> Selection:
        slices = dict(zip("zyx", map(slice, box.start, box.stop), strict=True))
        by_axis: dict[str, slice | int] = {"c": channel, "t": self.time or 0, **slices}
        return tuple(by_axis[axis] for axis in self.axes)


def gather(
    view: ZyxView, indices: list[NDArray[np.intp]], channels: Sequence[int] = ()
) -> NDArray[Any]:
    """Read the voxels at the outer product of three index arrays, in one read a run of channels.

    Parameters
    ----------
    view
        The stored array.
    indices
        Indices along z, y and x; each covers one contiguous range, in any order.
    channels
        Indices along c; empty for the one channel of the view.

    Returns
    -------
    ndarray
        The voxels (c, z, y, x).
    """
    low = triple(along.min() for along in indices)
    high = triple(along.max() + 1 for along in indices)
    data = view.read(Box(low, high), channels)
    for axis, (along, first) in enumerate(zip(indices, low, strict=True), start=1):
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
