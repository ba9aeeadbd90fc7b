"""What died on the way: a scheduler that is gone, and blocks whose worker died under them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cte_dask.errors import reason

if TYPE_CHECKING:
    from cte_dask.engine.jobs import Job

__all__ = ["SchedulerLostError", "Suspects", "cause_of", "died", "scheduler_needed"]

GONE = "the scheduler is gone: what was finished is kept, go on with --resume"
KILLED = (
    "the worker process died whenever it was tried, at last with nothing beside it: out of memory, "
    "or a library that crashed"
)
CANCELLED = "cancelled"
"""The status of a task that did not end but went with its scheduler."""
LOST = frozenset({"lost", "pending"})
"""A task that had ended has one of these if its result went with its worker: it is run again."""


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


MOST_IN_A_ROW = 3
"""Jobs that may die, one after the other, before it is asked why."""


class Suspects:
    """Jobs under which workers died, kept apart to be tried again, each alone.

    Dask blames every task that was on a worker when it died. So a suspect runs with no other task
    beside it; if workers die again, each of its models is tried by itself, and one that kills is
    set aside for the rest of the run, by name. Suspects wait until all else is done, as machines
    are lost for reasons of their own; once `MOST_IN_A_ROW` jobs died and none ended well in
    between, they go first: a model that kills every worker would do so with every block.

    Parameters
    ----------
    trials
        Returns jobs that try a job's models one by one.
    """

    def __init__(self, trials: Callable[[Job], list[Job]]) -> None:
        self._trials_of = trials
        self._waiting: deque[Job] = deque()
        self._tried: set[int] = set()
        self._accused: Job | None = None
        self._on_trial: deque[Job] = deque()
        self._last: set[int] = set()
        self._in_a_row = 0
        self.aside: dict[int, str] = {}

    def take(self, job: Job, future: Any) -> bool:
        """Keep a job apart if workers died under it, until who did it is found or cannot be.

        Parameters
        ----------
        job
            The job.
        future
            Its task, ended.

        Returns
        -------
        bool
            Whether nothing is to be taken in of it.

        Raises
        ------
        SchedulerLostError
            If the task did not end but was lost with its scheduler.
        """
        if future.status == CANCELLED:
            raise SchedulerLostError(GONE)
        killed = future.status == "error" and died(future.exception())
        if job.trial:
            self._judge(job, killed=killed)
            return True
        self._in_a_row = self._in_a_row + 1 if killed else 0
        if not killed or job.block in self._last:
            return False
        if job.block not in self._tried:
            self._tried.add(job.block)
            self._waiting.append(job)
            return True
        return self._accuse(job)

    @property
    def first(self) -> bool:
        """Whether suspects are tried before anything else."""
        many = bool(self._waiting) and self._in_a_row >= MOST_IN_A_ROW
        return many or self._accused is not None

    def next(self) -> list[Job]:
        """Return what is tried with nothing beside it: one job, if there is one.

        Once a model is set aside, all that wait for nothing else are as good as any other.
        """
        if self._on_trial:
            return [self._on_trial.popleft()]
        if self.aside:
            jobs = list(self._waiting)
            self._waiting.clear()
            return jobs
        return [self._waiting.popleft()] if self._waiting else []

    def spared(self, jobs: list[Job]) -> list[Job]:
        """Return jobs without the models that are set aside."""
        if not self.aside:
            return jobs
        aside = tuple(sorted(self.aside.items()))
        return [job if job.trial else replace(job, aside=aside) for job in jobs]

    def _accuse(self, job: Job) -> bool:
        trials = self._trials_of(job)
        if len(trials) < 2:
            return False
        self._accused = job
        self._on_trial.extend(trials)
        return True

    def _judge(self, trial: Job, *, killed: bool) -> None:
        """Set a model aside that kills; once all have been tried, go on with the job."""
        if killed and trial.models:
            self.aside[trial.models[0]] = f"set aside: {KILLED} (block {trial.block})"
        if not self._on_trial and self._accused is not None:
            self._waiting.appendleft(self._accused)
            self._last.add(self._accused.block)
            self._accused = None


def died(error: BaseException) -> bool:
    """Tell whether a task ended because workers died under it."""
    from distributed.scheduler import KilledWorker

    return isinstance(error, KilledWorker)


def cause_of(error: BaseException) -> str:
    """Return why a task died, in one line."""
    if not died(error):
        return reason(error)
    return KILLED
