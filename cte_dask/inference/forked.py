"""Processes that start in a moment: forked from one that has loaded what they need.

That one, the fork server of multiprocessing, is started once; it has one thread and does nothing
else. Where the system cannot fork, each process starts by itself.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context
from typing import Any

__all__ = [
    "METHOD",
    "NETWORKS",
    "STARTS",
    "forking",
    "hear_interrupts",
    "process_environment",
]

METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"

NETWORKS = "cte_dask.inference.preload"
"""Imports what a process needs that tries networks."""

STARTS = threading.Lock()
"""Held while a process is started, or is asked how it ended: that can be read once, and starting
one reads it of all others as well. Of two threads that read at a time, one would not be told."""

_POOLS = ("OMP", "MKL", "OPENBLAS", "NUMBA")


def process_environment(threads: int) -> dict[str, str]:
    """Return the environment of a process whose inference uses so many threads.

    Two things besides keep its memory flat. glibc does not give what one thread freed to another:
    two pools in place of eight a core. Dask's profiler looks at the stack a hundred times a second
    and keeps an hour of it, some 300 MB under a network's deep stacks.
    """
    return {f"{pool}_NUM_THREADS": str(threads) for pool in _POOLS} | {
        "MALLOC_ARENA_MAX": "2",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),  # of libraries to developers
    }


def forking(preload: str, threads: int) -> Any:
    """Return the context of multiprocessing in which processes are started, ready to do so.

    Parameters
    ----------
    preload
        Module that processes find imported: that of the first call, as long as the server lives.
    threads
        Threads that inference uses in each; otherwise as `preload`.
    """
    context: Any = get_context(METHOD)
    if METHOD == "forkserver":
        from multiprocessing.forkserver import ensure_running
        from multiprocessing.resource_tracker import ensure_running as ensure_tracker

        ensure_tracker()  # which lets Ctrl-C through again when it starts
        with STARTS, _environment(process_environment(threads)), _interrupts_held():
            context.set_forkserver_preload([preload])
            ensure_running()
    return context


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that a process which is started meanwhile keeps."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back from this thread, and for good from a process that is started meanwhile.

    A terminal sends it to all processes at once: the server would die of it while it loads.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_interrupts() -> None:
    """Let Ctrl-C through again, in a process that was forked."""
    if METHOD == "forkserver":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
