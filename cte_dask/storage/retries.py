"""How long to wait for storage and how often to ask again: the one place that decides it.

The library of the object stores repeats its requests by itself, as `retry_config` says. It does not
repeat an answer that broke off while it was read: `read_again` does. Disks, web servers and arrays
in memory have no such library: `read_patiently` repeats their reads. Callers of `cte_dask.storage`
and `cte_dask.volume` repeat nothing, since one loop inside another would multiply the waiting.
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

__all__ = ["PATIENCE", "TIMEOUTS", "read_again", "read_complete", "read_patiently", "retry_config"]

TIMEOUTS = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "300s"}
"""Limits of one request to an object store: to connect, between two bytes, and in all."""

PATIENCE = {"first": (3, 10.0), "later": (30, 120.0)}
"""Number of retries and seconds in all. A first request shows soon that an address is wrong; later
a server may be busy for two minutes before a block fails."""

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
    """Call a read until its answer is complete, four times at most; return the answer."""
    for wait in CUT_SHORT_WAITS:
        with suppress(CutShortError):
            return await read()
        await asyncio.sleep(wait)
    return await read()


def read_complete(read: Callable[[], T]) -> T:
    """Do as `read_again` does, in the thread that calls."""
    for wait in CUT_SHORT_WAITS:
        with suppress(CutShortError):
            return read()
        time.sleep(wait)
    return read()


def read_patiently(read: Callable[[], T]) -> T:
    """Call a read until it succeeds, three times at most; return its result.

    Errors of an object store are raised at once, since its library has retried for minutes already,
    and so is a MemoryError, since memory does not grow by waiting.
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
