"""Where the work runs: each way is a context manager that yields a Dask client, or None in-process.

To add one, write a module with a function ``open(name, *, workers, threads)``, one that tells how
many workers it starts by itself, ``workers(name, threads)``, and name both here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["CLUSTERS", "default_workers", "has_gpus", "open_cluster", "planned_workers"]

_HERE = "cte_dask.engine.clusters:_machine_workers"
CLUSTERS = {
    "local": ("cte_dask.engine.clusters.local:open_local", _HERE),
    "cuda": (
        "cte_dask.engine.clusters.cuda:open_cuda",
        "cte_dask.engine.clusters.cuda:cuda_workers",
    ),
    "slurm": (
        "cte_dask.engine.clusters.slurm:open_slurm",
        "cte_dask.engine.clusters.slurm:slurm_workers",
    ),
    "tcp": ("cte_dask.engine.clusters.address:open_address", _HERE),
    "tls": ("cte_dask.engine.clusters.address:open_address", _HERE),
    "file": ("cte_dask.engine.clusters.address:open_address", _HERE),
}
"""Kind of each way to run: where it is opened, and where its default number of workers is told."""
CHOICES = "none, local, cuda[:SITE], slurm[:SITE], tcp://HOST:PORT, tls://HOST:PORT, FILE.json"


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


def planned_workers(name: str, *, workers: int | None, threads: int) -> int:
    """Return for how many worker processes a run is to be cut into blocks.

    Parameters
    ----------
    name, workers, threads
        As of `open_cluster`.

    Returns
    -------
    int
        `workers` if given, else what the cluster has or would start.

    Raises
    ------
    ValueError
        If the name is unknown or a number is not positive.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    default_workers(threads)
    if name == "none":
        return 1
    _, told = CLUSTERS[_kind(name)]
    return int(_named(told)(name, threads)) if workers is None else workers


def has_gpus(name: str) -> bool:
    """Tell whether the workers that a cluster would start have GPUs.

    Parameters
    ----------
    name
        As of `open_cluster`.

    Returns
    -------
    bool
        By its kind or its site file; no GPU is looked for.

    Raises
    ------
    ValueError
        If its site file is wrong.
    """
    from cte_dask.engine.clusters.site import read_site

    kind = name.partition(":")[0]
    return kind == "cuda" or (kind == "slurm" and read_site(name).slurm.gpus > 0)


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
        ``tcp://host:port``, ``tls://host:port``, or the file (``.json``) that it wrote.
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
    if name == "none":
        yield None
        return
    opener, _ = CLUSTERS[_kind(name)]
    with _named(opener)(name, workers=workers, threads=threads) as client:
        yield client


def _kind(name: str) -> str:
    kind = "file" if name.endswith(".json") else name.partition(":")[0]
    # a site belongs to the kinds that read one, an address to the others
    shaped = {"local": name == "local", "tcp": "://" in name, "tls": "://" in name}
    if kind in CLUSTERS and shaped.get(kind, True):
        return kind
    close = get_close_matches(name, ["none", *CLUSTERS], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"cluster {name!r} is not one of {CHOICES}{hint}")


def _named(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _machine_workers(_name: str, threads: int) -> int:
    return default_workers(threads)
