"""A zarr array as a source: its shape and type, its reads, and its omitted chunks."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from threading import RLock
from typing import Any
from zipfile import BadZipFile

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.sync import sync

from cte_dask.errors import VolumeError, VolumeReadError, cause
from cte_dask.storage import StorageError, without_query
from cte_dask.storage.retries import read_patiently
from cte_dask.storage.stores import StrictStore, is_remote, open_store
from cte_dask.storage.zip_files import zip_store
from cte_dask.volume.image import Selection, checked_dtype, shown
from cte_dask.volume.shards import fetched_together

__all__ = [
    "NotZarrError",
    "ZarrSource",
    "not_zarr",
    "open_node",
    "open_zarr_source",
    "strict_store",
]

_LOOKED_UP = 8192  # more keys are listed, where the store can list
_MOST_LOOKED_UP = 2**20  # of a store that cannot list
_MOST_OPEN = 128  # arrays a process holds open
_CONCURRENT = 32  # requests in flight
# the key of a chunk below its array: c/0/1 (v3), or 0/1 or 0.1 (v2)
_CHUNK_KEY = re.compile(r"(?:c[/.])?(\d+(?:[/.]\d+)*)")

_Opened = tuple[zarr.Array[Any], StrictStore]
_opened: dict[tuple[object, ...], _Opened] = {}
_lock = RLock()


@dataclass(frozen=True)
class ZarrSource:
    """A zarr array (v2 or v3, sharded or not), as a recipe that opens once per process.

    Parameters
    ----------
    url, path
        URL or absolute path of the store, and the array's path in it.
    shape, dtype, chunks, shards, fill_value
        Extents, element type, chunks and fill value; :class:`~cte_dask.volume.image.Source` defines
        them.
    storage_options
        Options of fsspec for opening the URL; never printed, since they may hold credentials.
    store
        A store from Python that has no URL; None otherwise.
    """

    url: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    fill_value: float | int | None = field(compare=False)
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    store: Store | None = field(default=None, repr=False, compare=False)

    def read(self, selection: Selection) -> NDArray[Any]:
        """Return the selected elements in one zarr read; a failed read is repeated.

        Raises
        ------
        VolumeReadError
            If a chunk that exists cannot be read or decoded, or the array is no longer there.
        """
        try:
            data = read_patiently(lambda: self._read(selection))
        except MemoryError:
            raise
        except Exception as error:
            # codecs raise whatever their libraries raise
            raise VolumeReadError(
                f"cannot read {self._name} at {shown(selection)}: {cause(error)}"
            ) from error
        return data.astype(self.dtype, copy=False)

    def _read(self, selection: Selection) -> NDArray[Any]:
        array, store = self._array()
        misses = store.misses
        with self._few_requests(array, store, selection):
            data = np.asarray(array[selection])
        # a missing object is an omitted chunk, or the first sign that the array was deleted
        if store.misses > misses:
            _check_still_there(array, store)
        return data

    def _few_requests(
        self, array: zarr.Array[Any], store: StrictStore, selection: Selection
    ) -> AbstractContextManager[None]:
        # a disk answers at once; of a store from Python it is not known
        if self.shards is None or (self.store is None and not is_remote(self.url)):
            return nullcontext()
        return fetched_together(array, store, selection)

    def missing(self, selection: Selection) -> int:
        """Return how many chunks (or shards) of the selection are omitted.

        Up to some thousands of keys are looked up one by one; beyond, the keys of the array are
        listed, which suits a sparse array of any size.

        Raises
        ------
        VolumeReadError
            If the store cannot tell.
        """
        # only shards are objects of the store; the chunks in one are not
        unit = self.shards or self.chunks
        ranges = [_chunk_range(s, c) for s, c in zip(selection, unit, strict=True)]
        total = math.prod(len(indices) for indices in ranges)
        # a plain web server has no listing to rely on
        listable = not self.url.startswith(("http://", "https://"))
        if total > _MOST_LOOKED_UP and not listable:
            raise VolumeReadError(
                f"{total} chunks of {self._name} are too many to ask a server for"
            )
        try:
            if total > _LOOKED_UP and listable:
                return total - self._count_listed(ranges)
            return total - self._count_present(product(*ranges))
        except MemoryError:
            raise
        except Exception as error:
            raise VolumeReadError(
                f"cannot look up the chunks of {self._name}: {cause(error)}"
            ) from error

    def _count_present(self, positions: Iterable[tuple[int, ...]]) -> int:
        array, store = self._array()
        keys = [_key(array, array.metadata.encode_chunk_key(p)) for p in positions]
        return sync(_count(store, keys))

    def _count_listed(self, ranges: list[range]) -> int:
        array, store = self._array()
        prefix = _key(array, "")

        async def listed() -> int:
            keys = store.list_prefix(prefix)
            return sum([_within(key.removeprefix(prefix), ranges) async for key in keys])

        return sync(listed())

    @property
    def _name(self) -> str:
        place = without_query(self.url)
        return f"{place}/{self.path}" if self.path else place

    def _array(self) -> _Opened:
        # the lock covers the opening: once per process, however many threads ask
        with _lock:
            return _opened.get(self._key()) or self.keep(self._reopen())

    def keep(self, opened: _Opened) -> _Opened:
        """Hold the array open for this process; forget the oldest of too many."""
        with _lock:
            _opened[self._key()] = opened
            if len(_opened) > _MOST_OPEN:
                del _opened[next(iter(_opened))]
        return opened

    def _key(self) -> tuple[object, ...]:
        # id(store) identifies a store from Python: the key holds it, so that no other gets its id
        return os.getpid(), self, repr(sorted(self.storage_options.items())), id(self.store)

    def _reopen(self) -> _Opened:
        store = strict_store(self.url, self.storage_options, self.store)
        array = open_node(self.url, store, self.path)
        same = isinstance(array, zarr.Array) and array.shape == self.shape
        if not isinstance(array, zarr.Array) or not same or array.dtype.name != self.dtype:
            raise VolumeError(f"{self._name} has changed since it was opened: open it again")
        return array, store


def open_zarr_source(
    url: str, path: str, *, storage_options: Mapping[str, Any], store: Store | None = None
) -> ZarrSource:
    """Open a zarr array and describe it.

    Parameters
    ----------
    url, path
        URL or absolute path of the store, and the array's path in it.
    storage_options
        Options of fsspec for opening the URL.
    store
        A store to use in place of the URL.

    Raises
    ------
    VolumeError
        If there is no array, it cannot be read, or its elements are not real numbers.
    """
    opened_store = strict_store(url, storage_options, store)
    node = open_node(url, opened_store, path)
    name = f"{url}/{path}" if path else url
    if not isinstance(node, zarr.Array):
        raise VolumeError(f"{name} is a zarr group, not an array")
    # a Python number, which compares and pickles without NumPy
    fill = getattr(node.fill_value, "item", lambda: node.fill_value)()
    source = ZarrSource(
        url=url,
        path=path,
        shape=tuple(int(n) for n in node.shape),
        dtype=checked_dtype(np.dtype(node.dtype), name),
        chunks=tuple(int(n) for n in node.chunks),
        shards=None if node.shards is None else tuple(int(n) for n in node.shards),
        fill_value=fill,
        storage_options=storage_options,
        store=store,
    )
    # replaces an array that this process opened at the same place before it was rewritten
    source.keep((node, opened_store))
    return source


def strict_store(url: str, storage_options: Mapping[str, Any], store: Store | None) -> StrictStore:
    """Return the given store, or the one at the URL, read-only and refusing truncated objects."""
    opened = _opened_store(url, storage_options) if store is None else store
    # zarr copies a writable store to read from it, and misses would be counted in the copy
    return StrictStore(opened if opened.read_only else opened.with_read_only(True))


def _opened_store(url: str, storage_options: Mapping[str, Any]) -> Store:
    try:
        return zip_store(url, storage_options) or open_store(url, storage_options)
    except (StorageError, BadZipFile) as error:
        raise VolumeError(cause(error)) from error


def open_node(url: str, store: Store, path: str = "") -> zarr.Array[Any] | zarr.Group:
    """Open the zarr array or group at a path of a store.

    Parameters
    ----------
    url
        URL or path of the store, for messages.
    store
        The store.
    path
        Path within it.

    Raises
    ------
    VolumeError
        If nothing is there, or it is no zarr, or it cannot be read.
    """
    name = f"{url}/{path}" if path else url
    try:
        return zarr.open(store, path=path, mode="r")
    except FileNotFoundError as error:
        raise not_zarr(name) from error
    except StorageError as error:  # its message names the place and the remedy already
        raise VolumeError(cause(error)) from error
    except PermissionError as error:
        raise VolumeError(f"{name}: no permission to read it: {cause(error)}") from error
    except MemoryError:
        raise
    except Exception as error:
        # malformed JSON, network failures, unknown codecs: whatever their libraries raise
        raise VolumeError(f"{name} cannot be opened as zarr: {cause(error)}") from error


class NotZarrError(VolumeError):
    """There is no zarr at a place."""

    place = ""


def not_zarr(place: str, *, besides: str = "") -> NotZarrError:
    """Return the error of a path or URL where no zarr is, nor what else was looked for."""
    line = f"{place} is not a zarr: no zarr.json, .zarray or .zgroup there{besides}"
    remedy = ""
    if is_remote(place):
        line += "; N5 and precomputed volumes are named n5://… and precomputed://…"
    elif not os.path.exists(place):
        line = f"{place} does not exist"
    elif os.path.isfile(place):
        line = (
            f"{place} is a file, not a zarr, and of no other format that is read (HDF5, MRC, TIFF, "
            "PNG, JPEG)"
        )
        remedy = "convert it to zarr first"
    error = NotZarrError(line, remedy)
    error.place = place
    return error


async def _count(store: StrictStore, keys: Iterable[str]) -> int:
    limit = asyncio.Semaphore(_CONCURRENT)

    async def present(key: str) -> bool:
        async with limit:
            return await store.present(key)

    return sum(await asyncio.gather(*map(present, keys)))


def _check_still_there(array: zarr.Array[Any], store: StrictStore) -> None:
    """Raise if the array was deleted or unmounted meanwhile: its metadata are gone then too."""
    # metadata are read when an array is opened and cached: only the store knows of a deletion
    metadata = ".zarray" if array.metadata.zarr_format == 2 else "zarr.json"
    if not sync(store.present(_key(array, metadata))):
        raise FileNotFoundError(f"the array is no longer there ({metadata} is gone)")


def _key(array: zarr.Array[Any], chunk_key: str) -> str:
    prefix = array.store_path.path
    return f"{prefix}/{chunk_key}" if prefix else chunk_key


def _within(key: str, ranges: list[range]) -> bool:
    match = _CHUNK_KEY.fullmatch(key)
    position = [int(n) for n in re.split(r"[/.]", match[1])] if match else []
    return len(position) == len(ranges) and all(map(range.__contains__, ranges, position))


def _chunk_range(selected: slice | int, chunk: int) -> range:
    if isinstance(selected, int):
        return range(selected // chunk, selected // chunk + 1)
    return range(selected.start // chunk, -(-selected.stop // chunk))  # floor to ceil
