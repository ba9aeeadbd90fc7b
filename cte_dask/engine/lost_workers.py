"""What died on the way: a scheduler that is gone, and blocks whose worker died under them."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from cte_dask.errors import reason

__all__ = ["SchedulerLostError", "Suspects", "cause_of", "died", "scheduler_needed"]

GONE = "the scheduler is gone: what was finished is kept, go on with --resume"
GONE_STATUS = frozenset({"cancelled", "lost"})
"""A task has one of these if it did not end but was lost with its scheduler."""


class SchedulerLostError(OSError):
    """The scheduler is gone, and with it the tasks; what was finished is in the score store."""


@contextmanager
def scheduler_needed() -> Iterator[None]:
    """Turn what Dask raises inside when the scheduler is gone into a `SchedulerLostError`."""
    from distributed.comm.core import CommClosedError

    try:
        yield
    except CommClosedError as error:
        raise SchedulerLostError(GONE) from error


class Suspects:
    """Jobs under which workers died, kept apart to be tried once more, each alone.

    Dask blames every task that was on a worker when it died. What is still to be done goes first;
    then a suspect runs with no other task beside it: if workers die again, it is the one.
    """

    def __init__(self) -> None:
        self._waiting: deque[Hashable] = deque()
        self._tried: set[Hashable] = set()

    def take(self, job: Hashable, future: Any) -> bool:
        """Keep a job apart if workers died under it and it has not been tried alone yet.

        Parameters
        ----------
        job
            The job.
        future
            Its task, ended.

        Raises
        ------
        SchedulerLostError
            If the task did not end but was lost with its scheduler.
        """
        if future.status in GONE_STATUS:
            raise SchedulerLostError(GONE)
        if future.status != "error" or job in self._tried:
            return False
        if not died(future.exception()):
            return False
        self._tried.add(job)
        self._waiting.append(job)
        return True

    def next(self) -> list[Any]:
        """Return one job to be tried alone, if there is one."""
        return [self._waiting.popleft()] if self._waiting else []


def died(error: BaseException) -> bool:
    """Tell whether a task ended because workers died under it."""
    from distributed.scheduler import KilledWorker

    return isinstance(error, KilledWorker)


def cause_of(error: BaseException) -> str:
    """Return why a task died, in one line."""
    if not died(error):
        return reason(error)
    return (
        "the worker process died whenever it was tried, at last with nothing beside it: out of "
        "memory, or a library that crashed"
    )
