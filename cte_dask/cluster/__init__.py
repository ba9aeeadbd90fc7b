"""Where the work runs: each way is a context manager that yields a Dask client, or None in-process.

To add one, write a module with a function ``open(name, *, workers, threads)`` and name it here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["CLUSTERS", "default_workers", "open_cluster"]

CLUSTERS = {
    "local": "cte_dask.cluster.local:open_local",
    "tcp": "cte_dask.cluster.address:open_address",
    "tls": "cte_dask.cluster.address:open_address",
}
"""Name or URL scheme of each way to run, and where it is defined."""


def default_workers(threads: int) -> int:
    """Return the number of worker processes that fill this machine's cores.

    Raises
    ------
    ValueError
        If `threads` is not positive.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return max(1, len(os.sched_getaffinity(0)) // threads)


@contextmanager
def open_cluster(name: str, *, workers: int | None, threads: int) -> Iterator[Client | None]:
    """Open the place a run's blocks are scored.

    Parameters
    ----------
    name
        ``none`` (this process), ``local`` (worker processes on this machine), or the address of a
        scheduler, ``tcp://host:port`` or ``tls://host:port``.
    workers
        Worker processes to start, where it is us who start them; None fills this machine's cores.
    threads
        Threads that inference uses in each.

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    ValueError
        If the name is unknown, there is nothing at the address, or `workers` is not positive.
    """
    workers = default_workers(threads) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if name == "none":
        yield None
        return
    kind = name.partition("://")[0]
    if kind not in CLUSTERS:
        close = get_close_matches(name, ["none", *CLUSTERS], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"cluster {name!r} is not one of none, local, tcp://HOST:PORT, tls://HOST:PORT{hint}"
        )
    module, _, attribute = CLUSTERS[kind].partition(":")
    opener = getattr(importlib.import_module(module), attribute)
    with opener(name, workers=workers, threads=threads) as client:
        yield client
