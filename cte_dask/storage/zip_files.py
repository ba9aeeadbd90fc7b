"""A zarr in a zip file (``.zarr.zip``, ``.ozx``) as a store that is read where it lies."""

from __future__ import annotations

import os
import zipfile
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore, ZipStore

__all__ = ["METADATA", "ZIP_SUFFIXES", "zarr_folders", "zip_store"]

ZIP_SUFFIXES = (".zip", ".ozx")
METADATA = ("zarr.json", ".zgroup", ".zarray")
"""Files that make a folder a zarr: of version 3 and 2."""


def zip_store(path: str) -> Store | None:
    """Return the store in a zip file of this machine, None if the path names none.

    Parameters
    ----------
    path
        ``FILE``, or ``FILE::FOLDER`` for a zarr that is not at the root of the file.
    """
    file, _, folder = path.partition("::")
    if not file.lower().endswith(ZIP_SUFFIXES) or not os.path.isfile(file):
        return None
    store = ZipStore(file, mode="r")
    return _Folder(store, folder) if folder.strip("/") else store


def zarr_folders(file: str) -> list[str]:
    """Return the folders of a zip file that are a zarr, at any depth; ``""`` is its root.

    Raises
    ------
    OSError, zipfile.BadZipFile
        If the file cannot be read, or is none.
    """
    with zipfile.ZipFile(file) as opened:
        names = [name.rpartition("/") for name in opened.namelist()]
    return sorted({folder for folder, _, name in names if name in METADATA})


class _Folder(WrapperStore[ZipStore]):
    """A folder of a zip file."""

    def __init__(self, store: ZipStore, folder: str) -> None:
        super().__init__(store)
        self._prefix = folder.strip("/") + "/"

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return await super().get(self._prefix + key, prototype, byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        requests = [(self._prefix + key, byte_range) for key, byte_range in key_ranges]
        return await super().get_partial_values(prototype, requests)

    async def exists(self, key: str) -> bool:
        return await super().exists(self._prefix + key)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._store.list_prefix(self._prefix + prefix):
            yield key.removeprefix(self._prefix)

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for name in self._store.list_dir(self._prefix + prefix):
            yield name
