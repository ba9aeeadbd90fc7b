"""How long storage is waited for and how often it is asked again: all of it is here.

An object store's library repeats its requests by itself (`retry_config`). Two things remain. It
repeats no answer that ended half read (`read_again`), and disks, web servers and arrays given from
Python have no such library (`read_patiently`). Who reads through `cte_dask.storage` or a
`cte_dask.volume` repeats nothing: two loops, one in the other, would multiply the waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from cte_dask.storage.faults import CutShortError, StorageError

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, RetryConfig

__all__ = ["PATIENCE", "TIMEOUTS", "read_again", "read_patiently", "retry_config"]

TIMEOUTS = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "300s"}
"""Seconds to connect, without a byte, and in all, of one request to an object store."""

PATIENCE = {"first": (3, 10.0), "later": (30, 120.0)}
"""Retries and seconds: a first look says soon that an address is wrong; later a server may be busy
for two minutes before a block fails."""

CUT_SHORT_WAITS = (0.2, 1.0, 5.0)
"""Seconds before an object whose answer was cut short is read again."""

READ_WAITS = (0.1, 0.4)
"""Seconds before a disk, a web server or an array is read again."""

T = TypeVar("T")


def retry_config(patience: str) -> RetryConfig:
    """Return how obstore repeats requests: ``"first"`` or ``"later"``, see `PATIENCE`."""
    retries, seconds = PATIENCE[patience]
    backoff: BackoffConfig = {
        "init_backoff": timedelta(milliseconds=500),
        "max_backoff": timedelta(seconds=15),
        "base": 2,
    }
    limit = timedelta(seconds=seconds)
    return {"max_retries": retries, "retry_timeout": limit, "backoff": backoff}


async def read_again(read: Callable[[], Awaitable[T]]) -> T:
    """Return what a read gives, which is tried again where its answer was cut short."""
    for wait in CUT_SHORT_WAITS:
        with suppress(CutShortError):
            return await read()
        await asyncio.sleep(wait)
    return await read()


def read_patiently(read: Callable[[], T]) -> T:
    """Return what a read gives, which is tried again where anything but an object store failed.

    An object store's error comes after minutes of its library's own retries, and memory does not
    grow by waiting: both are raised at once.
    """
    for wait in READ_WAITS:
        try:
            return read()
        except Exception as error:  # codecs, web clients and lazy arrays raise types of their own
            if isinstance(error, MemoryError) or _was_patient(error):
                raise
        time.sleep(wait)
    return read()


def _was_patient(error: Exception) -> bool:
    return isinstance(error, StorageError) or isinstance(error.__cause__, StorageError)
