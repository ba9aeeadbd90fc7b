"""Targets that are arrays in Python: NumPy, dask, xarray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeReadError, cause
from cte_dask.storage.retries import read_patiently
from cte_dask.volume.axes import letters
from cte_dask.volume.image import Image, Selection, checked_dtype
from cte_dask.volume.ngff import LevelScale

__all__ = ["ArraySource", "array_source", "find_array"]


def find_array(target: object, storage_options: Mapping[str, Any]) -> Image | None:
    """Return an array as an image of one level, None if the target is no array.

    An xarray's dimensions become the axes where they have the names of axes, and its coordinates
    along c the names of channels.

    Raises
    ------
    VolumeError
        If its elements are not real numbers.
    """
    has_array_interface = all(
        hasattr(target, name) for name in ("shape", "dtype", "ndim", "__getitem__")
    )
    # a zarr array has the interface too, but is read from its store: another format finds it
    if not has_array_interface or type(target).__module__.partition(".")[0] == "zarr":
        return None
    array: Any = target
    name = f"the {type(target).__name__}"
    source = array_source(array, checked_dtype(np.dtype(array.dtype), name))
    dims = tuple(getattr(target, "dims", ()))
    axes = letters(dims or None)
    return Image(
        name=name,
        axes=axes,
        channels=_channels(array, str(dims[axes.index("c")])) if axes and "c" in axes else (),
        levels=(LevelScale(""),),
        open_level=lambda _: source,
    )


def _channels(array: Any, dimension: str) -> tuple[str, ...]:
    names = getattr(array, "coords", {}).get(dimension)
    # numbers along an axis are places, not names
    return () if names is None or names.dtype.kind not in "UO" else tuple(map(str, names.values))


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An array that is not in a zarr store; pickling it pickles all its elements.

    Parameters
    ----------
    array
        Anything with ``shape``, ``dtype`` and slicing that :func:`numpy.asarray` takes.
    url
        The array's type, for messages.
    shape, dtype, chunks
        Extents, element type and chunks; :class:`~cte_dask.volume.image.Source` defines them.
    """

    array: Any = field(repr=False)
    url: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]

    path = ""
    shards = None
    fill_value = None

    def read(self, selection: Selection) -> NDArray[Any]:
        """Return a copy of the selected elements; a failed computation is repeated.

        Raises
        ------
        VolumeReadError
            If they cannot be computed.
        """
        try:
            return read_patiently(lambda: self._read(selection))
        except MemoryError:
            raise
        except Exception as error:
            # a lazy array raises whatever its graph raises
            raise VolumeReadError(f"cannot compute {self.url}: {cause(error)}") from error

    def _read(self, selection: Selection) -> NDArray[Any]:
        elements = self.array[selection]
        if hasattr(elements, "__dask_graph__") and hasattr(elements, "compute"):
            # in this thread: a task that waits for tasks of its own cluster can lock it up
            elements = elements.compute(scheduler="synchronous")
        return np.array(elements, dtype=self.dtype)

    def missing(self, selection: Selection) -> int:
        """Return 0: an array in memory omits no chunk."""
        return 0


def array_source(array: Any, dtype: str) -> ArraySource:
    """Describe an array; ``dtype`` is its element type's checked name."""
    shape = tuple(int(n) for n in array.shape)
    return ArraySource(
        array=array,
        url=f"{type(array).__module__.partition('.')[0]} {type(array).__name__}",
        shape=shape,
        dtype=dtype,
        chunks=_chunks(array, shape),
    )


def _chunks(array: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    # dask and xarray give a tuple of extents along each axis; without that it is one chunk
    chunks = getattr(array, "chunks", None)
    if not chunks or any(isinstance(c, int) for c in chunks):
        return tuple(max(1, n) for n in shape)
    return tuple(max(map(int, along)) for along in chunks)
