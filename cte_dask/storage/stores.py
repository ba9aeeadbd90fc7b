"""Opens zarr stores by URL or path: the one place that knows zarr's store classes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore, ZipStore

from cte_dask.errors import VolumeError, cause
from cte_dask.storage import StorageError, is_cloud, is_url
from cte_dask.storage.objects import zarr_store

__all__ = ["StrictStore", "absolute", "is_remote", "names_below", "open_store"]

StorageOptions = Mapping[str, Any]

_filesystems: dict[int, object] = {}


def is_remote(target: str) -> bool:
    """Tell an fsspec URL from what is on this machine: a path, or a ``file://`` URL."""
    return is_url(target) and not target.startswith("file://")


def absolute(target: str | os.PathLike[str]) -> str:
    """Return a target as a URL or absolute path, so that every process finds the same one."""
    text = os.fspath(target)
    if is_remote(text):
        return text.rstrip("/")
    return os.path.abspath(os.path.expanduser(text.removeprefix("file://")))


def open_store(url: str, storage_options: StorageOptions, *, read_only: bool = True) -> Store:
    """Open the store below a URL or absolute local path.

    Raises
    ------
    VolumeError
        If the protocol is not known, or what it needs is not installed.
    """
    if not is_remote(url):
        return LocalStore(url, read_only=read_only)
    if is_cloud(url):
        try:
            return zarr_store(url, storage_options, read_only=read_only)
        except (StorageError, ImportError) as error:
            raise VolumeError(cause(error)) from error
    try:
        # only "not found" may mean an omitted chunk: any other failure is an error
        store = FsspecStore.from_url(
            url, dict(storage_options), read_only=read_only, allowed_exceptions=(FileNotFoundError,)
        )
    except (ImportError, ValueError, TypeError) as error:
        raise VolumeError(f"{url}: cannot open this kind of URL: {cause(error)}") from error
    _close_at_exit(store.fs)
    return store


async def names_below(store: Store, prefix: str) -> list[str] | None:
    """Return the names right below a prefix, or None if the store cannot list them.

    An unknown prefix has no names below it. A web server lists nothing, and a bucket's owner may
    forbid listing.
    """
    try:
        if isinstance(store, LocalStore) or is_cloud(str(store)):
            return [name async for name in store.list_dir(prefix)]
    except (PermissionError, StorageError):
        pass  # reading one of the objects will raise the cause
    return None


class StrictStore(WrapperStore[Store]):
    """A store that refuses truncated objects.

    zarr takes an empty shard, or an empty answer to a request for a range of one, for an omitted
    chunk and returns the fill value. This store raises where an answer has the wrong length.

    Parameters
    ----------
    store
        The store to read from.

    Attributes
    ----------
    misses
        Number of requests for objects that do not exist.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.misses = 0
        self._kept: dict[tuple[str, ByteRequest], Buffer] = {}

    def keep(self, key: str, byte_range: ByteRequest, buffer: Buffer) -> None:
        """Hold a range of an object in memory: the next request for it is answered from there."""
        self._kept[key, byte_range] = buffer

    def forget(self, ranges: Iterable[tuple[str, ByteRequest]]) -> None:
        """Let go of ranges that were not asked for."""
        for each in ranges:
            self._kept.pop(each, None)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of an object, None if there is no such object.

        Raises
        ------
        OSError
            If the object is empty, or a range has another length than requested.
        """
        kept = None if byte_range is None else self._kept.pop((key, byte_range), None)
        if kept is not None:
            return kept
        buffer = await super().get(key, prototype, byte_range)
        self.misses += buffer is None
        return _complete(key, buffer, byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return several objects or ranges, as :meth:`get` does."""
        requests = list(key_ranges)
        buffers = await super().get_partial_values(prototype, requests)
        self.misses += sum(buffer is None for buffer in buffers)
        return [_complete(k, buffer, r) for (k, r), buffer in zip(requests, buffers, strict=True)]

    async def present(self, key: str) -> bool:
        """Tell whether an object exists.

        Requests one byte of it, since the existence checks of some fsspec file systems answer
        "no" to any failure.
        """
        inner = self._store._store if isinstance(self._store, WrapperStore) else self._store
        if isinstance(inner, LocalStore | ZipStore):
            return await self._store.exists(key)
        first = RangeByteRequest(0, 1)
        return await self._store.get(key, default_buffer_prototype(), first) is not None


def _complete(key: str, buffer: Buffer | None, byte_range: ByteRequest | None) -> Buffer | None:
    if buffer is None:
        return None
    if len(buffer) == 0:
        raise OSError(f"{key} is truncated: no bytes where some are needed")
    if isinstance(byte_range, RangeByteRequest):
        length = byte_range.end - byte_range.start
    elif isinstance(byte_range, SuffixByteRequest):
        length = byte_range.suffix
    else:
        return buffer
    if len(buffer) > length:
        raise OSError(f"{key}: the server ignores byte ranges, which sharded arrays need")
    if len(buffer) < length:
        raise OSError(f"{key} is truncated: {len(buffer)} of {length} bytes")
    return buffer


def _close_at_exit(filesystem: object) -> None:
    """Keep an fsspec file system until the process ends, then close its network session.

    fsspec does not close the sessions of its asynchronous file systems, and aiohttp warns about a
    session that is collected before it is closed.
    """
    if not _filesystems:
        # runs before zarr stops its event loop, which was registered when zarr was imported
        atexit.register(_close_sessions, os.getpid())
    _filesystems[id(filesystem)] = filesystem


def _close_sessions(process: int) -> None:
    if os.getpid() != process:  # a forked child has no right to its parent's sockets
        return
    for filesystem in _filesystems.values():
        # where the file systems of HTTP and GitHub, S3, and Azure hold theirs
        for name in ("_session", "_s3", "service_client"):
            session = getattr(filesystem, name, None)
            if session is not None:
                sync(session.close(), timeout=5)
