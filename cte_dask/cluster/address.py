"""A scheduler that is already there, by its address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["open_address"]

TIMEOUT = "10s"


@contextmanager
def open_address(name: str, *, workers: int, threads: int) -> Iterator[Client]:
    """Connect to a scheduler; TLS files are taken from Dask's configuration.

    Raises
    ------
    ValueError
        If nothing answers there or it has no workers.
    """
    from distributed import Client

    try:
        client = Client(name, timeout=TIMEOUT)
    except (OSError, TimeoutError, TypeError, ValueError) as error:
        raise ValueError(f"no scheduler answers at {name}: {error}") from error
    with client:
        if not client.nthreads():
            raise ValueError(f"the scheduler at {name} has no workers: start some first")
        yield client
