"""Commands, schedulers, workers and clients, each a process of its own that a test may kill.

They are forked from one process that has imported everything, because a fresh interpreter takes
seconds for the imports alone.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from cte_dask.inference.forked import METHOD, forking, hear_interrupts

CONTEXT = multiprocessing.get_context(METHOD)


def prepare() -> None:
    """Start the process that has imported everything, if there is none yet."""
    with pytest.MonkeyPatch.context() as patch:  # it does not take over sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS", ""))  # commands warn
        forking("imported", threads=1)


def start(
    function: Callable[..., None], *arguments: Any, daemon: bool = True
) -> tuple[BaseProcess, Any]:
    """Run a function in a process of its own; returns it and the first thing that it sends."""
    prepare()
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=function, args=(there, *arguments), daemon=daemon)
    process.start()
    there.close()
    return process, here


class Command:
    """A ``cte`` command in a process and a process group of its own.

    Parameters
    ----------
    words
        The command without ``cte``.
    folder
        Where its standard output and error are written.
    terminal
        A terminal to write to instead.
    """

    def __init__(self, words: Iterable[Any], folder: Path, terminal: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [folder / "stdout", folder / "stderr"]
        paths = [terminal or str(path) for path in self._files]
        # one that starts processes itself must not be a daemon
        arguments = ([str(w) for w in words], *paths, dict(os.environ))
        self.process, line = start(_command, *arguments, daemon=False)
        line.recv()  # the streams are open: a terminal may be left to it
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    @property
    def stdout(self) -> str:
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        return self._files[1].read_text()

    @property
    def exit_code(self) -> int | None:
        """As of a shell's job, None while it runs."""
        return self.process.exitcode

    def wait(self, seconds: float = 500) -> int:
        """Return the exit code; only a command that hangs is killed."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            kill(self.process)
            raise TimeoutError(f"not ended within {seconds:g} s: {self.stderr}")
        return self.process.exitcode


def _command(
    pipe: Connection, words: list[str], out: str, err: str, environment: dict[str, str]
) -> None:
    """Run a command as an interpreter of its own would: streams, environment, process group."""
    os.setsid()
    hear_interrupts()
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    pipe.send(True)
    sys.argv = ["cte", *words]

    from cte_dask.cli import app

    app()


def kill(process: BaseProcess) -> None:
    assert process.pid is not None
    with suppress(ProcessLookupError):  # it may have come to its end
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def scheduler(pipe: Connection) -> None:
    import dask
    from distributed import Scheduler

    from cte_dask.engine.clusters.connection import SETTINGS

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as server:
            pipe.send(server.address)
            await server.finished()

    with dask.config.set(SETTINGS):
        asyncio.run(serve())


def worker(_pipe: Connection, address: str, folder: str) -> None:
    import torch
    from distributed import Worker

    torch.set_num_threads(1)

    async def serve() -> None:
        async with Worker(
            address, nthreads=1, host="127.0.0.1", dashboard=False, local_directory=folder
        ) as server:
            await server.finished()

    asyncio.run(serve())


def client(pipe: Connection, target: str, bank: str, out: str, options: dict[str, Any]) -> None:
    from cte_dask.ranking.rank_target import rank_target
    from cte_dask.scoring.settings import TargetOptions

    outcome = rank_target(TargetOptions(target), bank, out, resume=True, **options)
    pipe.send((outcome.exit_code, outcome.result["complete"]))


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
    """Let Dask fork worker processes of any cluster, so that one is there within a second.

    What Dask wants their environment to be before they start, as that of threads, does not reach
    them.
    """
    import dask
    import distributed.utils

    prepare()
    distributed.utils._forkserver_preload_set = True  # keep what is imported already
    with dask.config.set({"distributed.worker.multiprocessing-method": METHOD}):
        yield
