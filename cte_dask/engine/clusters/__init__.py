"""Where the work runs: each way is a context manager that yields a Dask client, or None in-process.

A way to run is a `ClusterKind`: how it is written in ``--cluster``, how it is opened, how many
workers it starts by itself, whether they have GPUs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cte_dask.registry import Registry, checked

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "CLUSTERS",
    "ClusterKind",
    "ClusterOptions",
    "default_workers",
    "get_ready",
    "has_gpus",
    "open_cluster",
    "planned_workers",
]

CLUSTERS = Registry(
    "cluster",
    {
        "none": "cte_dask.engine.clusters:NONE",
        "local": "cte_dask.engine.clusters.local:LOCAL",
        "cuda": "cte_dask.engine.clusters.cuda:CUDA",
        "slurm": "cte_dask.engine.clusters.slurm:SLURM",
        "tcp": "cte_dask.engine.clusters.address:TCP",
        "tls": "cte_dask.engine.clusters.address:TLS",
        "file": "cte_dask.engine.clusters.address:FILE",
    },
)
"""Kind of each way to run and where it is defined."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where the blocks are scored; see `open_cluster`."""

    cluster: Annotated[
        str,
        "none (this process), local, cuda[:SITE], slurm[:SITE], tcp://HOST:PORT, "
        "tls://HOST:PORT, or the FILE.json of a scheduler.",
    ] = "local"
    workers: Annotated[int | None, "Worker processes; by default one a core."] = None


def default_workers(threads: int) -> int:
    """Return the number of worker processes that fill this machine's cores.

    Parameters
    ----------
    threads
        Threads of inference in each.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If `threads` is not positive.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return max(1, len(os.sched_getaffinity(0)) // threads)


def _one_a_core(_name: str, threads: int) -> int:
    return default_workers(threads)


def _without_gpus(_name: str) -> bool:
    return False


def _nothing(_threads: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class ClusterKind:
    """One way to run.

    Parameters
    ----------
    open
        Function of ``(name, *, workers, threads)`` that returns a context manager, as
        `open_cluster` does; `name` is the whole of what ``--cluster`` says.
    workers
        Function of ``(name, threads)``: the worker processes that it has or starts where no
        number is asked for; by default one a core of this machine.
    gpus
        Function of the name: whether its workers have GPUs, without looking for one.
    form
        How it is written, for messages, such as ``"slurm[:SITE]"``; empty if that is its name.
    pattern
        Regular expression of the names that it takes.
    most
        Worker processes that it starts at most; None for any number.
    get_ready
        Function of the threads of inference in each worker: begins what takes a while and does not
        wait for it.
    """

    open: Callable[..., AbstractContextManager[Client | None]]
    workers: Callable[[str, int], int] = _one_a_core
    gpus: Callable[[str], bool] = _without_gpus
    form: str = ""
    pattern: str = ".*"
    most: int | None = None
    get_ready: Callable[[int], None] = _nothing


@contextmanager
def _open_none(_name: str, *, workers: int, threads: int) -> Iterator[None]:
    yield None


NONE = ClusterKind(_open_none, workers=lambda _name, _threads: 1, pattern="none")
"""Blocks are scored in this process, one after another."""


def planned_workers(name: str, *, workers: int | None, threads: int) -> int:
    """Return for how many worker processes a run is to be cut into blocks.

    Parameters
    ----------
    name
        What ``--cluster`` says; see `open_cluster`.
    workers
        Number of worker processes asked for; None for the cluster's own.
    threads
        Threads that inference uses in each.

    Returns
    -------
    int
        `workers` if given, else what the cluster has or would start.

    Raises
    ------
    ValueError
        If the name is unknown, a number is not positive, or the cluster cannot bear so many.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    default_workers(threads)
    if name == "none":
        return 1
    kind = _kind(name)
    if kind.most is not None and workers is not None and workers > kind.most:
        raise ValueError(
            f"workers must be at most {kind.most} on --cluster {name}, not {workers}: each is a "
            "process with a copy of the models; leave it out for one a core"
        )
    return kind.workers(name, threads) if workers is None else workers


def has_gpus(name: str) -> bool:
    """Tell whether the workers that a cluster would start have GPUs.

    Parameters
    ----------
    name
        What ``--cluster`` says; see `open_cluster`.

    Returns
    -------
    bool
        Whether its kind or its site file says so; no GPU is looked for.

    Raises
    ------
    ValueError
        If the name is unknown or its site file is wrong.
    """
    return _kind(name).gpus(name)


def get_ready(name: str, *, threads: int) -> None:
    """Begin what opening a cluster will need, while something else is done; nothing is waited for.

    Parameters
    ----------
    name
        What ``--cluster`` says; see `open_cluster`.
    threads
        Threads that inference will use in each worker.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    _kind(name).get_ready(threads)


@contextmanager
def open_cluster(
    name: str, *, workers: int | None = None, threads: int = 1
) -> Iterator[Client | None]:
    """Open the place a run's blocks are scored.

    Parameters
    ----------
    name
        ``none`` (this process), ``local`` (worker processes on this machine), ``cuda`` (its GPUs),
        ``slurm`` (jobs), each with a site file as ``slurm:FILE``; or a scheduler that is there:
        ``tcp://host:port``, ``tls://host:port``, or the file (``.json``) that it wrote; or
        ``your_package.module:THING``, a `ClusterKind` of yours, with anything after a colon.
    workers
        Worker processes to start, where it is us who start them; by default one a core, one a GPU,
        or what the site says.
    threads
        Threads that inference uses in each.

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    ValueError
        If the name is unknown, a number is not positive, or the cluster cannot be had.
    """
    workers = planned_workers(name, workers=workers, threads=threads)
    with _kind(name).open(name, workers=workers, threads=threads) as client:
        yield client


def _kind(name: str) -> ClusterKind:
    key = "file" if name.endswith(".json") else CLUSTERS.split(name)[0]
    try:
        kind = checked(CLUSTERS.load(key), ClusterKind, key)
    except ValueError as error:
        raise ValueError(f"{error}; written {_forms()}") from error
    if not re.fullmatch(kind.pattern, name):
        raise ValueError(f"cluster {name!r} must read {kind.form or key}")
    return kind


def _forms() -> str:
    return ", ".join(CLUSTERS.load(name).form or name for name in CLUSTERS)
