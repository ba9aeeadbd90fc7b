"""The target: a small recipe that every process opens for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError
from cte_dask.storage import without_query
from cte_dask.tiles import Shape
from cte_dask.volume.box import Box, triple
from cte_dask.volume.mask import Mask
from cte_dask.volume.view import ZyxView, gather, reflected
from cte_dask.volume.voxel_size import VoxelSize

__all__ = ["Volume"]


@dataclass(frozen=True)
class Volume:
    """A time point, pyramid level and region of a stored image, always zyx; its channels by name.

    :func:`~cte_dask.volume.open_volume` makes it. It holds no open file and pickles to a few
    hundred bytes (unless it holds an array in memory).

    Parameters
    ----------
    view
        The stored array of the level, as zyx.
    level
        Pyramid level, 0 where there is no pyramid.
    roi
        The region of interest, in voxels of the array.
    voxel_size
        Extent of a voxel in nanometre, None if not known.
    offset
        Centre of the array's first voxel (z, y, x) from the origin of the image, in voxels of
        the level.
    labelled
        Of labels, by their metadata: the image that they label; see `Image`.
    mask
        Mask of the voxels that count; None if all do.
    notes
        Remarks for reports on how the target was opened.
    channel_names
        Names of all channels, empty if not known.
    channels
        Channels that `read_channels` returns, by index; empty for `channel` alone.
    """

    view: ZyxView
    level: int
    roi: Box
    voxel_size: VoxelSize | None
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    labelled: str | None = None
    mask: Mask | None = None
    notes: tuple[str, ...] = ()
    channel_names: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()

    @property
    def url(self) -> str:
        """URL or absolute path of the store, or the type of an array in memory."""
        return self.view.url

    @property
    def member(self) -> str:
        """Which of several images of one group it is, as a target names it; else empty."""
        return self.view.member

    @property
    def target(self) -> str:
        """What opens the image again: its URL, and its member behind ``::``."""
        return f"{self.url}::{self.member}" if self.member else self.url

    @property
    def path(self) -> str:
        """Path of the array within the store."""
        return self.view.source.path

    @property
    def name(self) -> str:
        """URL of the store and path of the array, joined."""
        return self.view.name

    @property
    def anonymous(self) -> bool:
        """Whether requests are unsigned, as a public bucket takes them."""
        options = getattr(self.view.source, "storage_options", {})
        return bool(options.get("anonymous", False))

    @property
    def axes(self) -> str:
        """Axes of the stored array."""
        return self.view.axes

    @property
    def channel(self) -> int | None:
        """Index along the channel axis, None if there is none; what most models see."""
        return self.view.channel

    @property
    def channel_count(self) -> int:
        """Number of channels, 1 where there is no such axis."""
        return dict(zip(self.axes, self.view.source.shape, strict=True)).get("c", 1)

    def of_channel(self, channel: int) -> Volume:
        """Return the volume with another channel, and that alone.

        Parameters
        ----------
        channel
            Index along the channel axis; 0 where there is none.
        """
        chosen = channel if "c" in self.axes else None
        return replace(self, view=replace(self.view, channel=chosen), channels=())

    @property
    def time(self) -> int | None:
        """Index along the time axis, None if there is none."""
        return self.view.time

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type, in native byte order."""
        return np.dtype(self.view.source.dtype)

    @property
    def fill_value(self) -> float | int | None:
        """Value of the voxels of an omitted chunk."""
        return self.view.source.fill_value

    @property
    def shape(self) -> Shape:
        """Extent of the region of interest in voxels (z, y, x)."""
        return self.roi.shape

    @property
    def array_shape(self) -> Shape:
        """Extent of the whole array in voxels (z, y, x)."""
        return self.view.shape

    @property
    def chunks(self) -> Shape:
        """Extent of a chunk in voxels (z, y, x)."""
        return self.view.chunks

    @property
    def shards(self) -> Shape | None:
        """Extent of a shard in voxels (z, y, x), None if there are none."""
        return self.view.shards

    @property
    def read_unit(self) -> Shape:
        """Extent of the best single read (z, y, x): a shard, else a chunk, within the array.

        The units tile the *array*; in coordinates of the region they start at ``-origin``.
        """
        unit = self.shards or self.chunks
        return triple(min(u, n) for u, n in zip(unit, self.array_shape, strict=True))

    @property
    def chunk_unit(self) -> Shape:
        """Extent of a chunk (z, y, x) within the array: the least that a read decodes."""
        return triple(min(u, n) for u, n in zip(self.chunks, self.array_shape, strict=True))

    @property
    def origin(self) -> Shape:
        """First voxel of the region of interest (z, y, x) in the array."""
        return self.roi.start

    @property
    def translation(self) -> tuple[float | None, float | None, float | None] | None:
        """Centre of the array's first voxel (z, y, x) in nanometre from the image's origin.

        None along an axis, or altogether, where the voxel size is not known. Voxel ``i`` of the
        region lies at ``translation + (origin + i) * voxel_size``.
        """
        if self.voxel_size is None:
            return None
        pairs = zip(self.offset, self.voxel_size.lengths, strict=True)
        z, y, x = (None if length is None else o * length for o, length in pairs)
        return z, y, x

    def read(self, start: Shape, stop: Shape) -> NDArray[Any]:
        """Return the voxels of a box, in one read of the store.

        Parameters
        ----------
        start, stop
            Corners in voxels (z, y, x) relative to the region of interest; ``stop`` is exclusive.
            Outside the region the array's own voxels are returned, and beyond the array's edges
            their reflection (as ``numpy.pad(mode="reflect")``, for any distance).

        Returns
        -------
        ndarray
            The voxels (z, y, x) in the stored element type; a copy.

        Raises
        ------
        ValueError
            If the box is empty.
        VolumeReadError
            If stored voxels cannot be read.
        """
        voxels: NDArray[Any] = self._gathered(start, stop, ())[0]
        return voxels

    def read_channels(self, start: Shape, stop: Shape) -> NDArray[Any]:
        """Return the voxels of a box in all `channels`; else as `read`.

        Parameters
        ----------
        start, stop
            As `read` takes them.

        Returns
        -------
        ndarray
            The voxels (c, z, y, x) in the stored element type; a copy.

        Raises
        ------
        ValueError
            If the box is empty.
        VolumeReadError
            If stored voxels cannot be read.
        """
        return self._gathered(start, stop, self.channels)

    def _gathered(self, start: Shape, stop: Shape, channels: tuple[int, ...]) -> NDArray[Any]:
        box = Box(triple(start), triple(stop)).shift(self.roi.start)
        # reflection at the array's edges, not the region's: real voxels beat mirrored ones
        ranges = zip(box.start, box.stop, self.array_shape, strict=True)
        return gather(self.view, [reflected(*extent) for extent in ranges], channels)

    def read_mask(self, start: Shape, stop: Shape) -> NDArray[np.bool_] | None:
        """Return which voxels of a box count, None if there is no mask.

        Parameters
        ----------
        start, stop
            Corners in voxels (z, y, x) relative to the region of interest, within the array.

        Raises
        ------
        ValueError
            If the box is empty or reaches out of the array.
        VolumeReadError
            If the stored mask cannot be read.
        """
        box = self._inside(start, stop)
        return None if self.mask is None else self.mask.read(box)

    def missing_chunks(self, start: Shape, stop: Shape) -> int:
        """Return how many chunks (or shards) of a box a sparse array omits.

        Omitted chunks read as the fill value, which is no error but worth a note in a report. Up
        to some thousands are looked up one by one, more by listing all keys of the array, which
        takes hours for a dense petabyte.

        Parameters
        ----------
        start, stop
            Corners in voxels (z, y, x) relative to the region of interest, within the array.

        Raises
        ------
        ValueError
            If the box is empty or reaches out of the array.
        VolumeReadError
            If the store cannot tell.
        """
        return self.view.missing(self._inside(start, stop))

    def storage_objects(self, start: Shape, stop: Shape) -> int:
        """Return how many chunks (or shards) a box within the array touches; no I/O.

        Parameters
        ----------
        start, stop
            Corners of the box in voxels of the region (z, y, x); `stop` is exclusive.

        Raises
        ------
        ValueError
            If the box reaches out of the array.
        """
        box = self._inside(start, stop)
        spans = zip(box.start, box.stop, self.read_unit, strict=True)
        # along each axis ceil(high / unit) - floor(low / unit)
        return math.prod(-(-high // unit) - low // unit for low, high, unit in spans)

    def _inside(self, start: Shape, stop: Shape) -> Box:
        box = Box(triple(start), triple(stop)).shift(self.roi.start)
        if not box.inside(self.array_shape):
            raise ValueError(f"box {box} reaches out of the array {self.array_shape} (z, y, x)")
        return box

    def check_no_labels(self) -> None:
        """Refuse labels where intensities are wanted.

        Raises
        ------
        VolumeError
            If the metadata say that the voxels are labels.
        """
        if self.labelled is None:
            return
        image = f", {self.labelled}" if self.labelled else ""
        raise VolumeError(
            f"target {self.name} holds labels, by its metadata, and models want intensities",
            remedy=f"name the image that they label{image}",
        )

    def describe(self) -> dict[str, Any]:
        """Return what was opened, ready for JSON.

        Storage options may hold credentials: none but ``anonymous`` is included.
        """
        return {
            "url": self.url,
            "path": self.path,
            "level": self.level,
            "axes": self.axes,
            "channel": self.channel,
            **({"channels": list(self.channels)} if self.channels else {}),
            "time": self.time,
            "roi": str(self.roi),
            "dtype": self.dtype.name,
            "shape": list(self.shape),
            "array_shape": list(self.array_shape),
            "chunks": list(self.chunks),
            "shards": None if self.shards is None else list(self.shards),
            "voxel_size": None if self.voxel_size is None else str(self.voxel_size),
            "translation_nm": self.translation and list(self.translation),
            "mask": None if self.mask is None else self.mask.name,
            "notes": list(self.notes),
            **({"member": self.member} if self.member else {}),
            **({"anonymous": True} if self.anonymous else {}),
        }

    def identity(self) -> dict[str, Any]:
        """Return `describe` without what differs for the same voxels: whether and how one signs."""
        description = self.describe()
        description.pop("anonymous", None)
        mask = description["mask"]
        return {
            **description,
            "url": without_query(description["url"]),
            "mask": None if mask is None else without_query(mask),
        }
