"""A scheduler, workers and clients, each a process of its own that may be killed at any moment.

They are forked from a process that has imported everything: twenty of each start within seconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Start the process that has imported everything, if there is none yet."""
    CONTEXT.set_forkserver_preload(["faults.imported"])
    with pytest.MonkeyPatch.context() as patch:  # it does not take over sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()


def start(function: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Any]:
    """Run a function in a process of its own; returns it and the first thing that it sends."""
    prepare()
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=function, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    return process, here


def kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def scheduler(told: Connection) -> None:
    import dask
    from distributed import Scheduler

    from cte_dask.engine.clusters.connection import SETTINGS

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as server:
            told.send(server.address)
            await server.finished()

    with dask.config.set(SETTINGS):
        asyncio.run(serve())


def worker(_told: Connection, address: str, folder: str) -> None:
    import torch
    from distributed import Worker

    torch.set_num_threads(1)

    async def serve() -> None:
        async with Worker(
            address, nthreads=1, host="127.0.0.1", dashboard=False, local_directory=folder
        ) as server:
            await server.finished()

    asyncio.run(serve())


def client(told: Connection, target: str, bank: str, out: str, options: dict[str, Any]) -> None:
    from cte_dask.ranking.rank_target import TargetOptions, rank_target

    outcome = rank_target(TargetOptions(target), bank, out, resume=True, **options)
    told.send((outcome.exit_code, outcome.result["complete"]))


@contextmanager
def small_cluster(folder: str, workers: int = 2) -> Iterator[tuple[str, BaseProcess]]:
    """Start a scheduler and workers; yields its address and process."""
    head, line = start(scheduler)
    address = line.recv()
    hands = [start(worker, address, folder)[0] for _ in range(workers)]
    try:
        yield address, head
    finally:
        for process in (head, *hands):
            if process.is_alive():
                kill(process)
            process.join()


@contextmanager
def quick_workers() -> Iterator[None]:
    """Let Dask fork its worker processes too, so that a killed one is back within a second."""
    import dask
    import distributed.utils

    prepare()
    distributed.utils._forkserver_preload_set = True  # keep what is imported already
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield
