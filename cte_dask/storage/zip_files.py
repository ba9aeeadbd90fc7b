"""A zarr in a zip file (``.zarr.zip``, ``.ozx``) as a store that is read where it lies.

Of a file elsewhere the directory is read once a process, and members by range.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zipfile
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import lru_cache
from threading import RLock
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore, ZipStore

from cte_dask.storage import is_url
from cte_dask.storage.stored_file import (
    Range,
    StoredFile,
    find_file,
    split_url,
    suffix_path,
    threads,
)

__all__ = ["METADATA", "ZIP_SUFFIXES", "is_zip_file", "zarr_folders", "zip_store"]

ZIP_SUFFIXES = (".zip", ".ozx")
METADATA = ("zarr.json", ".zgroup", ".zarray")
"""Files that make a folder a zarr: of version 3 and 2."""
LOCAL_HEADER = struct.Struct("<26x2H")
"""Before each member, its last numbers are the lengths of the name and of what follows that."""


def is_zip_file(name: str) -> bool:
    """Tell a path or URL of a zip file from others; no request is made."""
    is_named = suffix_path(name).endswith(ZIP_SUFFIXES)
    return is_named and (is_url(name) or os.path.isfile(name))


def zip_store(target: str, storage_options: Mapping[str, Any]) -> Store | None:
    """Return the store in a zip file, None if the target names none.

    Parameters
    ----------
    target
        ``FILE``, or ``FILE::FOLDER`` for a zarr that is not at the root of the file.
    storage_options
        For opening a URL.

    Raises
    ------
    OSError, zipfile.BadZipFile
        If a file elsewhere cannot be read, or is none.
    """
    file, folder = split_url(target) if is_url(target) else target.partition("::")[::2]
    if not is_zip_file(file):
        return None
    if is_url(file):
        store: ZipStore = _RemoteZip(find_file(file, storage_options, known=True))
    else:
        store = ZipStore(file, mode="r")
    return _Folder(store, folder) if folder.strip("/") else store


def zarr_folders(file: StoredFile) -> list[str]:
    """Return the folders of a zip file that are a zarr, at any depth; ``""`` is its root.

    Raises
    ------
    OSError, zipfile.BadZipFile
        If the file cannot be read, or is none.
    """
    with file.open() as stream, zipfile.ZipFile(stream) as opened:
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


class _RemoteZip(ZipStore):
    """A zip file elsewhere.

    Parameters
    ----------
    file
        The file, of a known version.
    """

    def __init__(self, file: StoredFile) -> None:
        super().__init__(os.path.basename(file.name))
        self._file = file
        self._directory = _directory(file, repr(sorted(file.storage_options.items())), os.getpid())
        self._lock, self._zf, self._is_open = RLock(), self._directory.archive, True

    def __str__(self) -> str:
        return f"zip::{self._file.name}"

    def close(self) -> None:
        """Do nothing: other stores of the process share the directory."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a member or a part of it, None if there is none."""
        member = self._directory.members.get(key)
        if member is None:
            return None
        start, stop = _limits(byte_range, member.file_size)
        if byte_range is not None and member.compress_type == zipfile.ZIP_STORED:
            first = await self._first_byte(member)
            [content] = await self._read((first + start, stop - start))
        else:
            content = (await self._whole(member))[start:stop]
        return prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of members."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def _read(self, span: Range) -> list[bytes]:
        return await asyncio.get_running_loop().run_in_executor(
            threads("members", os.getpid()), self._file.read, [span]
        )

    async def _whole(self, member: zipfile.ZipInfo) -> bytes:
        offset = member.header_offset
        span = offset, self._directory.ends[offset] - offset
        contents = await self._read(span)
        return self._directory.decoded(member, span, contents)

    async def _first_byte(self, member: zipfile.ZipInfo) -> int:
        starts, offset = self._directory.starts, member.header_offset
        if offset not in starts:
            [header] = await self._read((offset, LOCAL_HEADER.size))
            starts[offset] = offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header))
        return starts[offset]


class _Directory:
    """The members of a zip file, and where they begin and end."""

    def __init__(self, file: StoredFile) -> None:
        self._lock, self._stream = RLock(), file.cursor()
        self.archive = zipfile.ZipFile(self._stream)
        self.members = {member.filename: member for member in self.archive.infolist()}
        offsets = sorted(member.header_offset for member in self.members.values())
        self.ends = dict(zip(offsets, [*offsets[1:], self.archive.start_dir], strict=True))
        self.starts: dict[int, int] = {}

    def decoded(self, member: zipfile.ZipInfo, span: Range, contents: list[bytes]) -> bytes:
        """Return a member's content from the bytes of the file; its checksum is compared."""
        with self._lock:
            self._stream.hold([span], contents)
            try:
                return self.archive.read(member)
            finally:
                self._stream.hold([], [])


@lru_cache(maxsize=8)
def _directory(file: StoredFile, _options: str, _process: int) -> _Directory:
    return _Directory(file)


def _limits(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    match byte_range:
        case RangeByteRequest(start, end):
            return min(start, size), min(end, size)
        case OffsetByteRequest(offset):
            return min(offset, size), size
        case SuffixByteRequest(suffix):
            return max(0, size - suffix), size
    return 0, size
