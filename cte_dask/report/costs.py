"""What a plan tells of memory and time, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cte_dask.planning import Plan

__all__ = ["WORKERS", "memory", "shown_bytes", "times"]

WORKERS = (1, 16, 256)
"""Numbers of workers that a plan tells the time for."""


def shown_bytes(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def memory(plan: Plan) -> str:
    """Return what a worker needs, where it can be measured, and what of the target it holds."""
    worker = f"{shown_bytes(plan.bytes_worker)} a worker, " if plan.bytes_worker else ""
    device = f"{shown_bytes(plan.bytes_device)} of its GPU, " if plan.bytes_device else ""
    return f"{worker}{device}{shown_bytes(plan.bytes_window)} of the target at a time"


def times(plan: Plan) -> str:
    """Return how long the whole target takes some numbers of workers."""
    told = (f"{_duration(3600 * plan.hours(n))} on {n}" for n in WORKERS)
    return f"{', '.join(told)} workers like this process, if all of it is scored"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{seconds / 60:.2g} min"
    hours = seconds / 3600
    return f"{hours:.2g} h" if hours < 48 else f"{hours / 24:,.0f} days"
