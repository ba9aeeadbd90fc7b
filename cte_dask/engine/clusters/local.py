"""Worker processes on this machine, on the loopback interface only."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cte_dask.engine.clusters import ClusterKind
from cte_dask.engine.clusters.connection import SETTINGS
from cte_dask.inference.forked import METHOD, forking, process_environment

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

__all__ = ["LOCAL", "open_local"]


PRELOAD = "cte_dask.engine.clusters.preload"
"""Imports what a worker process finds loaded."""


def _get_ready(threads: int) -> None:
    """Start what workers are forked from: it loads torch and the rest meanwhile."""
    forking(PRELOAD, threads)


@contextmanager
def open_local(_name: str, *, workers: int, threads: int) -> Iterator[Client]:
    """Start worker processes, each with one task at a time.

    Parameters
    ----------
    workers
        Number of processes.
    threads
        Threads that inference uses in each; Dask's own pool has one.
    """
    import dask
    import distributed.utils
    from distributed import Client, LocalCluster

    _get_ready(threads)
    distributed.utils._forkserver_preload_set = True  # else it adds pandas and more to that, here
    settings = {
        **SETTINGS,
        "distributed.worker.multiprocessing-method": METHOD,
        "distributed.nanny.pre-spawn-environ": process_environment(threads),
    }
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
            preload=["cte_dask.engine.clusters.connection"],
        )
        try:
            with Client(cluster) as client, _kept_at(workers, cluster, client):
                _wait(client)
                yield client
        finally:
            _close(cluster)


MOST_A_CORE = 4
LOCAL = ClusterKind(
    open_local,
    pattern="local",
    most=max(16, MOST_A_CORE * (os.cpu_count() or 1)),
    get_ready=_get_ready,
)
"""Worker processes on this machine."""


FIRST_WORKER = 300
"""Seconds until a worker process must have come up."""


LOOKS_AGAIN = 2.0
"""Seconds until a worker process that Dask gave up is started again."""


@contextmanager
def _kept_at(workers: int, cluster: LocalCluster, client: Client) -> Iterator[None]:
    """Start again what Dask gives up.

    It starts a worker that died anew, but for one that is just about to come up some seconds after
    another death: that one is dropped, and in the end a run may be left without any.
    """
    from tornado.ioloop import PeriodicCallback

    keeper = PeriodicCallback(lambda: cluster.scale(workers), 1000 * LOOKS_AGAIN)

    async def switch(action: Callable[[], None]) -> None:
        action()  # on the loop of the cluster

    client.sync(switch, keeper.start)
    try:
        yield
    finally:
        client.sync(switch, keeper.stop)


def _wait(client: Client) -> None:
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER)
    except TimeoutError as error:
        raise ValueError(
            f"no worker process came up within {FIRST_WORKER} s: the machine is too busy; "
            "try fewer --workers, or --cluster none"
        ) from error


def _close(cluster: LocalCluster) -> None:
    """Stop the workers; one that takes too long is no error: what it did is in the score store.

    On a busy machine Dask gives up waiting after some seconds. The worker ends with this process.
    """
    loop_errors = logging.getLogger("tornado.application")
    level = loop_errors.level
    loop_errors.setLevel(logging.CRITICAL)
    try:
        cluster.close()
    except TimeoutError:
        pass
    finally:
        loop_errors.setLevel(level)
