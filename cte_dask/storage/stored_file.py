"""A file on this machine or elsewhere, which is opened, or read by ranges of bytes.

Of a file elsewhere a process keeps the beginnings and indices that formats look up again and again,
in blocks, a bounded number of a bounded number of files; what is large passes through.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from cte_dask.storage import StorageError, is_url, without_query
from cte_dask.storage.byte_ranges import NO_RANGES, Answer, fetch
from cte_dask.storage.retries import read_patiently

__all__ = [
    "Cursor",
    "Range",
    "StoredFile",
    "find_file",
    "list_folder",
    "split_url",
    "suffix_path",
    "threads",
]

BLOCK = 2**16
"""Bytes of a block; what is longer is not kept."""
MOST_BLOCKS = 64
MOST_OPEN = 32
AT_ONCE = 16
"""Requests in flight for one read."""
GAP = 2**14
"""Bytes between two ranges that are fetched in vain, since a second request takes longer."""
LONGEST = 2**25
"""Bytes of ranges that are fetched in one request."""

T = TypeVar("T")
R = TypeVar("R")
Range = tuple[int, int]
"""First byte and number of bytes."""


@dataclass(frozen=True)
class StoredFile:
    """A file, as a recipe that opens it in any process.

    Parameters
    ----------
    name
        Absolute path or URL.
    version
        Of a file elsewhere, what must not change; empty if it is not known, or on this machine.
    storage_options
        For opening the URL; never printed, since they may hold credentials.
    """

    name: str
    version: str = ""
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_remote(self) -> bool:
        """Whether it is not on this machine."""
        return is_url(self.name)

    def open(self) -> BinaryIO:
        """Open it to read; each that is opened has a position of its own."""
        return cast(BinaryIO, self.cursor()) if self.is_remote else open(self.name, "rb")

    def cursor(self) -> Cursor:
        """Open one that is elsewhere."""
        return Cursor(_remote(self))

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return ranges of bytes; of a file elsewhere several at once, those side by side in one.

        Raises
        ------
        OSError
            If they cannot be read, or the file is no longer as it was.
        """
        if self.is_remote:
            return _remote(self).fetch(ranges)
        with self.open() as file:
            return [_read_at(file, self.name, *each) for each in ranges]

    def for_each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Call a function for each item; where answers are waited for, for several at a time."""
        if not self.is_remote:
            return list(map(function, items))
        return list(threads("files", os.getpid()).map(function, items))


def find_file(
    name: str, storage_options: Mapping[str, Any], *, whole: bool = False, known: bool = False
) -> StoredFile:
    """Return a file as it is now; of one elsewhere the beginning is read.

    Parameters
    ----------
    name
        Absolute path or URL.
    storage_options
        For opening the URL.
    whole
        Whether it is read whole, which a server without ranges can answer, too.
    known
        Whether it may be as this process knows it already.

    Raises
    ------
    StorageError
        If it cannot be reached, or not be read by ranges.
    """
    file = StoredFile(name, "", storage_options)
    if not file.is_remote:
        return file
    remote = _remote(file) if known else read_patiently(lambda: _connected(file))
    if not (whole or remote.ranges or remote.size <= BLOCK):
        raise StorageError(f"{without_query(name)}: {NO_RANGES}")
    return StoredFile(name, remote.version, storage_options)


def split_url(target: str) -> tuple[str, str]:
    """Split ``URL::INSIDE``; protocols that fsspec chains stay with the URL.

    Examples
    --------
    >>> split_url("https://host/a.h5::volume/raw")
    ('https://host/a.h5', 'volume/raw')
    >>> split_url("simplecache::s3://bucket/a.tif")
    ('simplecache::s3://bucket/a.tif', '')
    """
    pieces = target.split("::")
    last = max((i for i, piece in enumerate(pieces) if "://" in piece), default=0)
    return "::".join(pieces[: last + 1]), "::".join(pieces[last + 1 :])


def suffix_path(name: str) -> str:
    """Return what of a path or URL ends in the suffix of its file, in small letters.

    Examples
    --------
    >>> suffix_path("https://host/A.H5?X-Amz-Signature=a.b")
    'https://host/a.h5'
    """
    first = next((piece for piece in name.split("::") if "://" in piece), name)
    return without_query(first).lower()


class _Remote:
    """A file elsewhere, for all threads of a process."""

    def __init__(self, file: StoredFile, first: Answer) -> None:
        self.url, self.options, self.key = file.name, file.storage_options, _key(file)
        self.size, self.ranges = first.size, first.ranges
        self.version = f"{first.version} {first.size}".strip()
        self._blocks = {0: first.content}

    def read(self, start: int, length: int) -> bytes:
        """Return bytes, fewer only where the file ends."""
        stop = min(start + length, self.size)
        if stop <= start:
            return b""
        numbers = range(start // BLOCK, (stop - 1) // BLOCK + 1)
        if len(numbers) > 2:  # an array and no index
            return self.fetch([(start, stop - start)])[0]
        content = b"".join(map(self._block, numbers))
        return content[start - numbers[0] * BLOCK : stop - numbers[0] * BLOCK]

    def _block(self, number: int) -> bytes:
        kept = _recalled(self._blocks, number)
        if kept is not None:
            return kept
        start = number * BLOCK
        [content] = self.fetch([(start, min(BLOCK, self.size - start))])
        _keep(self._blocks, number, content, MOST_BLOCKS)
        return content

    def fetch(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return ranges of bytes, several at a time."""
        if beyond := next((r for r in ranges if sum(r) > self.size), None):
            raise OSError(
                f"{without_query(self.url)} is truncated: it ends before the {beyond[1]} bytes at "
                f"{beyond[0]}"
            )
        spans = _merged([each for each in ranges if each[1]])
        starts = [start for start, _ in spans]
        if len(spans) > 1:
            contents = list(threads("ranges", os.getpid()).map(self._span, spans))
        else:  # this thread alone, and no lock: see `fetch` of byte_ranges
            contents = list(map(self._span, spans))

        def within(start: int, length: int) -> bytes:
            span = bisect_right(starts, start) - 1
            offset = start - starts[span]
            return contents[span][offset : offset + length]

        return [within(*each) if each[1] else b"" for each in ranges]

    def _span(self, span: Range) -> bytes:
        answer = fetch(self.url, self.options, *span)
        if f"{answer.version} {answer.size}".strip() != self.version:
            _open.pop(self.key, None)  # who opens it again finds the new one
            raise changed(self.url)
        return answer.content


def _merged(ranges: Sequence[Range]) -> list[Range]:
    """Return first byte and end of the spans that hold some ranges; small gaps are no end."""
    spans: list[Range] = []
    for start, length in sorted(ranges):
        stop = start + length
        first, last = spans[-1] if spans else (start, start)
        if not spans or start > last + GAP or max(stop, last) - first > LONGEST:
            spans.append((start, stop))
        else:
            spans[-1] = first, max(stop, last)
    return spans


def changed(name: str) -> StorageError:
    """Return the error of a file that is no longer as it was."""
    return StorageError(f"{without_query(name)} has changed since it was opened: open it again")


class Cursor(io.RawIOBase):
    """A file elsewhere as libraries read one; `held` are ranges that were fetched before."""

    def __init__(self, remote: _Remote) -> None:
        self._remote, self._position = remote, 0
        self.name = suffix_path(remote.url).rpartition("/")[2]
        self.hold([], [])

    def hold(self, ranges: Sequence[Range], contents: Sequence[bytes]) -> None:
        """Answer reads within some ranges from memory, until others are held."""
        pairs = sorted(zip((start for start, _ in ranges), contents, strict=True))
        self._starts, self._held = [start for start, _ in pairs], [c for _, c in pairs]

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._remote.size}
        self._position = max(0, base[whence] + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes from the position on, fewer only where the file ends."""
        left = max(0, self._remote.size - self._position)
        length = left if size is None or size < 0 else min(size, left)
        content = self._from_memory(length) or self._remote.read(self._position, length)
        self._position += len(content)
        return content

    def _from_memory(self, length: int) -> bytes:
        index = bisect_right(self._starts, self._position) - 1
        if index < 0:
            return b""
        offset = self._position - self._starts[index]
        content = self._held[index][offset : offset + length]
        return content if len(content) == length else b""

    def readall(self) -> bytes:
        """Return the rest."""
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)


_open: dict[tuple[object, ...], _Remote] = {}


def _remote(file: StoredFile) -> _Remote:
    """Return the file if it is the version that is wanted, one a process."""
    remote = _recalled(_open, _key(file))
    if remote is None or (file.version and remote.version != file.version):
        remote = _connected(file)
    if file.version and remote.version != file.version:
        raise changed(file.name)
    return remote


def _connected(file: StoredFile) -> _Remote:
    first = fetch(file.name, file.storage_options, 0, BLOCK, patience="first")
    remote = _Remote(file, first)
    _keep(_open, _key(file), remote, MOST_OPEN)
    return remote


def _recalled(kept: dict[Any, T], key: object) -> T | None:
    """Return what is kept, which is the newest then; threads share it without a lock."""
    value = kept.pop(key, None)
    if value is not None:
        kept[key] = value
    return value


def _keep(kept: dict[Any, T], key: object, value: T, most: int) -> None:
    kept[key] = value
    if len(kept) > most:
        with suppress(RuntimeError):  # another thread was faster
            kept.pop(next(iter(kept)), None)


@lru_cache(maxsize=8)
def threads(_purpose: str, _process: int) -> ThreadPoolExecutor:
    """Return threads, which keep their connections; those of one purpose wait for no other's."""
    return ThreadPoolExecutor(AT_ONCE, _purpose)


def _key(file: StoredFile) -> tuple[object, ...]:
    # a forked process makes its own connections
    return os.getpid(), file.name, repr(sorted(file.storage_options.items()))


def _read_at(file: BinaryIO, name: str, start: int, length: int) -> bytes:
    file.seek(start)
    content = file.read(length)
    if len(content) < length:
        raise OSError(f"{name} is truncated: {len(content)} of {length} bytes at {start}")
    return content


def list_folder(url: str, storage_options: Mapping[str, Any]) -> list[str]:
    """Return the URLs right below a folder in a bucket, or that a web server links; may be none."""
    try:
        files, path = fsspec.core.url_to_fs(url.rstrip("/") + "/", **storage_options)
        names = [files.unstrip_protocol(name) for name in files.ls(path, detail=False)]
    except Exception:  # listing is up to each file system, and so is what it raises
        return []
    below = [name for name in names if "?" not in name and "#" not in name]
    return [name for name in below if name.rstrip("/") != url.rstrip("/")]
