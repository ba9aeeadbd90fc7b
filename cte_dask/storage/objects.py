"""zarr's store for object stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

import zarr
from zarr.storage import ObjectStore

from cte_dask.storage.buckets import bucket_url, check_bucket, open_bucket
from cte_dask.storage.faults import explaining
from cte_dask.storage.retries import read_again

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["CloudStore", "zarr_store"]

CONCURRENCY = 64
"""Requests in flight; zarr's own 10 leaves half of a fast store's throughput unused."""
_ZARRS_OWN = 10


def zarr_store(
    url: str, options: Mapping[str, Any] | None = None, *, read_only: bool = False
) -> CloudStore:
    """Return the zarr store at the URL of an object store.

    Parameters
    ----------
    url
        URL of a zarr array or group.
    options
        ``anonymous``, ``endpoint`` and ``region``, as `cte_dask.storage.buckets.open_bucket` takes
        them.
    read_only
        Whether writing is refused.

    Raises
    ------
    StorageError
        If a first request shows that key, bucket or region are wrong, or nobody answers.
    ValueError
        If an option is wrong.
    """
    # a number that the user chose is left alone
    if zarr.config.get("async.concurrency") == _ZARRS_OWN:
        zarr.config.set({"async.concurrency": CONCURRENCY})
    storage_options = dict(options or {})
    check_bucket(bucket_url(url), tuple(sorted(storage_options.items())))
    signed = not storage_options.get("anonymous", False)
    store = open_bucket(url.rstrip("/"), storage_options)
    return CloudStore(store, url=url, read_only=read_only, signed=signed)


class CloudStore(ObjectStore[Any]):
    """zarr's object store, with errors of one line and reads that are repeated.

    Parameters
    ----------
    store
        The obstore store.
    url
        Its URL, for messages.
    read_only
        Whether writing is refused.
    signed
        Whether requests are signed.
    """

    def __init__(
        self, store: Any, *, url: str = "", read_only: bool = False, signed: bool = True
    ) -> None:
        super().__init__(store, read_only=read_only)
        self.url, self.signed = url, signed

    def _explaining(self, key: str = "") -> AbstractContextManager[None]:
        return explaining(f"{self.url}/{key}" if key else self.url, signed=self.signed)

    def __str__(self) -> str:
        return self.url

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store, writable or not."""
        return type(self)(self.store, url=self.url, read_only=read_only, signed=self.signed)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or a part of it, None if there is none."""

        async def read() -> Buffer | None:
            with self._explaining(key):
                return await super(CloudStore, self).get(key, prototype, byte_range)

        return await read_again(read)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        ranges = [*key_ranges]

        async def read() -> list[Buffer | None]:
            with self._explaining():
                return await super(CloudStore, self).get_partial_values(prototype, ranges)

        return await read_again(read)

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        with self._explaining(key):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object; nothing is there until all of it is."""
        with self._explaining(key):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write an object unless there is one; of two processes that try at once, one writes."""
        with self._explaining(key):
            await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Delete an object."""
        with self._explaining(key):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all objects below."""
        with self._explaining(prefix):
            await super().delete_dir(prefix)

    def list(self) -> AsyncGenerator[str, None]:
        """Yield all keys."""
        return self._listed(super().list())

    def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the keys below a prefix."""
        return self._listed(super().list_prefix(prefix))

    def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield the names right below a prefix."""
        return self._listed(super().list_dir(prefix))

    async def _listed(self, names: AsyncIterator[str]) -> AsyncGenerator[str, None]:
        with self._explaining():
            async for name in names:
                yield name
