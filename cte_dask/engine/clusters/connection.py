"""What every cluster shares: Dask's settings, and the check that its workers are like us.

Each worker process on this machine loads this module and then ignores Ctrl-C (`dask_setup`): a
terminal sends it to all processes at once. The first process stops the work and then the workers;
a worker that took it for itself would die amid a block, with a traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cte_dask.errors import reason
from cte_dask.inference.forked import hear_interrupts
from cte_dask.scoring.experiment import versions

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["SETTINGS", "check_workers", "dask_setup", "version_differences"]

SETTINGS: dict[str, Any] = {
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.worker-ttl": "60s",
    "distributed.worker.profile.enabled": False,
}
"""Dask's settings wherever we start the scheduler: no task waits at a worker, a frozen worker is
given up after a minute, no stacks are collected."""


def check_workers(client: Client, name: str) -> None:
    """Make sure that every worker can run our tasks and would give our numbers.

    Parameters
    ----------
    client
        Connected; it has workers.
    name
        What to call the cluster in a message.

    Raises
    ------
    ValueError
        If a worker lacks this package, or has another version of what decides the numbers.
    """
    try:
        versions_of: dict[str, Mapping[str, str]] = client.run(versions)
    except Exception as error:  # what a worker raises comes through as it is
        raise ValueError(
            f"the workers of {name} cannot run cte_dask ({reason(error)}): "
            "install the same version there as here"
        ) from error
    versions_here = versions()
    for worker, versions_there in versions_of.items():
        if different := version_differences(versions_here, versions_there):
            raise ValueError(
                f"worker {worker} of {name} has {different}: install the same versions there"
            )


def version_differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return what differs between the versions of two processes, empty if nothing that matters.

    The last number of Python and builds of one version (``2.13.0+cpu``, ``2.13.0+cu129``) do not.

    Examples
    --------
    >>> version_differences({"torch": "2.13.0+cpu"}, {"torch": "2.13.0+cu129"})
    ''
    >>> version_differences({"torch": "2.13.0", "zarr": "3.1"}, {"torch": "2.12.0", "zarr": "3.1"})
    'torch 2.12.0 (here 2.13.0)'
    """
    names = dict.fromkeys((*here, *there))
    return ", ".join(
        f"{n} {there.get(n, 'missing')} (here {here.get(n, 'missing')})"
        for n in names
        if _compared(n, here) != _compared(n, there)
    )


def _compared(name: str, versions_of: Mapping[str, str]) -> str:
    version = versions_of.get(name, "").partition("+")[0]
    return version.rpartition(".")[0] if name == "python" else version


def dask_setup(_worker: object) -> None:
    """Ignore Ctrl-C from here on; Dask calls this when the worker starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hear_interrupts()
