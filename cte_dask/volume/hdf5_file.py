"""HDF5 files, opened: one on this machine for every read, one elsewhere once a process."""

from __future__ import annotations

import atexit
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

from cte_dask.storage.stored_file import Cursor, Range, StoredFile
from cte_dask.volume.file_source import library

__all__ = ["open_hdf5"]

_MOST_OPEN = 16
_opened: OrderedDict[tuple[object, ...], tuple[Any, Cursor]] = OrderedDict()
_lock = RLock()


@contextmanager
def open_hdf5(
    file: StoredFile, ranges: Sequence[Range] = (), contents: Sequence[bytes] = ()
) -> Iterator[Any]:
    """Open a file to read, as h5py does.

    Parameters
    ----------
    file
        The file.
    ranges, contents
        Of a file elsewhere, what was fetched of it already.

    Yields
    ------
    h5py.File
        One elsewhere is this thread's alone as long as it is open here.
    """
    h5py = library("h5py", extra="h5", kind="HDF5")
    if not file.is_remote:
        # best effort: disks that know no locks, or that may not be written, are read all the same
        with h5py.File(file.name, "r", locking="best-effort") as opened:
            yield opened
        return
    with _lock:  # HDF5 itself lets one thread in at a time
        opened, cursor = _kept(file, h5py)
        cursor.hold(ranges, contents)
        try:
            yield opened
        finally:
            cursor.hold((), ())


def _kept(file: StoredFile, h5py: Any) -> tuple[Any, Cursor]:
    key = os.getpid(), file, repr(sorted(file.storage_options.items()))
    if key not in _opened:
        if not _opened:
            atexit.register(_close, os.getpid())
        cursor = file.cursor()
        _opened[key] = h5py.File(cursor, "r"), cursor
        if len(_opened) > _MOST_OPEN:
            _opened.popitem(last=False)[1][0].close()
    _opened.move_to_end(key)
    return _opened[key]


def _close(process: int) -> None:
    if os.getpid() == process:  # a forked child has no right to its parent's files
        while _opened:
            _opened.popitem()[1][0].close()
