"""What a volume format returns: an image of one or more resolutions, each an array to read.

An `Image` still has all its axes, channels and times too; each of its levels is a `Source`, an
n-dimensional array that every process opens for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError

if TYPE_CHECKING:
    from cte_dask.volume.ngff import LevelScale

__all__ = ["Image", "Selection", "Source", "checked_dtype", "shown"]

Selection = tuple[slice | int, ...]


class Source(Protocol):
    """An array in its own order of axes; it pickles small, and all but its voxels needs no I/O."""

    @property
    def url(self) -> str:
        """URL or absolute path of the store, or the type of an array in memory."""

    @property
    def path(self) -> str:
        """Path of the array below the URL."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis in voxels."""

    @property
    def dtype(self) -> str:
        """Name of the element type, in native byte order."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of a chunk along each axis."""

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Extent of a shard along each axis, None if there are none."""

    @property
    def fill_value(self) -> float | int | None:
        """Value of the voxels of an omitted chunk, None if no chunk can be omitted."""

    def read(self, selection: Selection) -> NDArray[Any]:
        """Return the selected elements; an axis with an index is dropped.

        Parameters
        ----------
        selection
            One index or slice per axis, within the array.

        Raises
        ------
        VolumeReadError
            If stored elements cannot be read.
        """

    def missing(self, selection: Selection) -> int:
        """Return how many storage objects (chunks, or shards) of the selection are omitted.

        Parameters
        ----------
        selection
            What would be read, as `read` takes it.

        Raises
        ------
        VolumeReadError
            If the store cannot tell.
        """


def checked_dtype(dtype: np.dtype[Any], name: str) -> str:
    """Return the name of an element type in native byte order, if a target or mask may have it.

    Raises
    ------
    VolumeError
        If the elements are not boolean, integers or floating point numbers of at most 8 bytes.
    """
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise VolumeError(f"{name} has elements of type {dtype}: want integers or real numbers")
    return dtype.name


def shown(selection: Selection) -> str:
    """Return a selection as messages show it.

    Examples
    --------
    >>> shown((0, slice(2, 5)))
    '[0,2:5]'
    """
    extents = (f"{s.start}:{s.stop}" if isinstance(s, slice) else str(s) for s in selection)
    return "[" + ",".join(extents) + "]"


@dataclass(frozen=True)
class Image:
    """An image as a format describes it.

    Parameters
    ----------
    name
        The target, as messages name it.
    axes
        Letters of ``tczyx`` in stored order, None if the format does not say.
    levels
        The resolutions, finest first.
    open_level
        Returns the array of a level.
    channels
        Names of the channels, empty if not known.
    notes
        Remarks on the image for reports.
    format
        Reference ``"module:function"`` of the format that found it; empty for a listed format.
    member
        Which of several images of one group it is, as a target names it behind ``::``; empty where
        URLs of its arrays say it.
    labelled
        Of labels, by their metadata: the image that they label, as a target names it, or empty
        where they do not say. None of intensities, and where nothing is said.
    """

    name: str
    axes: str | None
    levels: tuple[LevelScale, ...]
    open_level: Callable[[int], Source]
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: str = ""
    member: str = ""
    labelled: str | None = None
