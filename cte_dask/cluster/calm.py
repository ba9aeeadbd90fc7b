"""Loaded by each worker process on this machine: Ctrl-C is for the process that started them.

A terminal sends it to all of them at once. The first process stops the work and then the workers;
a worker that took it for itself would die amid a block, with a traceback.
"""

from __future__ import annotations

import signal

__all__ = ["dask_setup"]


def dask_setup(_worker: object) -> None:
    """Ignore Ctrl-C from here on; Dask calls this when the worker starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
