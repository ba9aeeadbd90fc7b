"""Running jobs: the one door to Dask, for scoring, calibration and evaluation alike.

`jobs_array` is the work as a Dask collection that carries block numbers, not voxels: one task a
job, which reads its own part of the target. `run_jobs` asks for it a window at a time, so that a
scheduler never holds more than a few thousand tasks, and releases results as they arrive. Without a
client the jobs are done in this process one after the other: that is the specification, every other
way is tested against it. Which jobs are wanted, and when that is enough, is not decided here: see
`cte_dask.engine.jobs.Work`.

A task is repeated when the worker under it died, and for nothing else: a store that falters is
waited for in `cte_dask.storage`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from cte_dask.engine.jobs import Job, Result, Work
from cte_dask.engine.lost_workers import (
    CANCELLED,
    GONE,
    LOST,
    SchedulerLostError,
    Suspects,
    scheduler_needed,
)
from cte_dask.errors import STOPPED
from cte_dask.inference.memory import limited_memory

if TYPE_CHECKING:
    import dask.array
    from distributed import Client

__all__ = ["Task", "jobs_array", "run_jobs"]

CANCELLATIONS = (asyncio.CancelledError, concurrent.futures.CancelledError)

ResultT = TypeVar("ResultT", bound=Result)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Task(Protocol[ResultT_co]):
    """What is done with each job of a run; pickled, and sent to every worker once."""

    @property
    def name(self) -> str:
        """What its tasks are called on a dashboard."""

    def __call__(self, job: Job) -> ResultT_co:
        """Do a job, in a worker."""

    def trials(self, job: Job) -> list[Job]:
        """Return jobs that try a job's models one by one; none if it has no such parts."""

    def give_up(self, job: Job, error: BaseException) -> ResultT_co:
        """Return what stands for a job whose task died, in the process that waits for it."""


def jobs_array(task: Task[Any], jobs: Sequence[Job]) -> dask.array.Array:
    """Return the results of some jobs as a lazy array, one chunk and one task a job.

    Parameters
    ----------
    task
        What is done with each.
    jobs
        The jobs.

    Returns
    -------
    dask.array.Array
        Objects, (job,): each is what `task` returns, in the order of `jobs`.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import delayed
    from dask.layers import ArrayValuesDep

    chunks = ((1,) * len(jobs),)
    # each task holds its job: told its number by map_blocks, it would be wrapped in a function of
    # dask.array, and a worker would load that, SciPy and pandas before its first block
    wanted = ArrayValuesDep(chunks, {(number,): job for number, job in enumerate(jobs)})
    wanted.ndim = 1  # type: ignore[attr-defined]
    # one name for all windows of a run: what it needs is with the workers already
    shared = delayed(task, name=f"{task.name}-task-{tokenize(task)}", traverse=False)
    array: dask.array.Array = da.map_blocks(
        _chunk,
        wanted,
        shared,
        chunks=chunks,
        dtype=object,
        meta=np.empty(0, object),
        name=f"{task.name}-{tokenize(task, *jobs)}",
    )
    return array


def _chunk(job: Job, task: Task[Any]) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Do one job in a worker."""
    chunk = np.empty(1, object)
    with limited_memory(_worker_memory()):
        chunk[0] = task(job)
    return chunk


def _worker_memory() -> int | None:
    """Return the bytes that this Dask worker may use, None without a limit or outside of one."""
    from distributed import get_worker

    try:
        limit: int | None = get_worker().memory_manager.memory_limit
    except ValueError:
        return None
    return limit or None


def run_jobs(
    task: Task[ResultT],
    work: Work[ResultT],
    *,
    client: Client | None = None,
    progress: Callable[[ResultT], None] = lambda _: None,
) -> None:
    """Do what is wanted.

    Parameters
    ----------
    task
        What is done with each job.
    work
        The jobs wanted; takes in their results.
    client
        A Dask client; None does the jobs in this process.
    progress
        Called in this process with each result, after `work` has taken it in.

    Raises
    ------
    SchedulerLostError
        If the scheduler of `client` is gone.
    """
    if client is None:
        _run_here(task, work, progress)
    else:
        with scheduler_needed():
            _run_with_dask(task, work, progress, client)


def _run_here(
    task: Task[ResultT], work: Work[ResultT], progress: Callable[[ResultT], None]
) -> None:
    while not work.finished and (jobs := work.jobs(1)):
        for job in jobs:
            if STOPPED.is_set():  # the error that a signal raised was lost in foreign code
                raise KeyboardInterrupt
            result = task(job)
            work.take(result)
            progress(result)


def _run_with_dask(
    task: Task[ResultT],
    work: Work[ResultT],
    progress: Callable[[ResultT], None],
    client: Client,
) -> None:
    window, suspects = 0, Suspects(task.trials)
    flying: dict[Any, tuple[Any, Job]] = {}
    running = _finishing([], client, work.deadline)

    def submit() -> None:
        nonlocal window
        if 3 * len(flying) > 2 * window:
            return  # until a third is free: a graph for each job would cost more than the job
        window = _window(client)
        jobs = [] if suspects.first else work.jobs(max(0, window - len(flying)))
        if jobs := suspects.spared(jobs or ([] if flying else suspects.next())):
            futures = _submitted(jobs_array(task, jobs), client)
            flying.update((f.key, (f, j)) for f, j in zip(futures, jobs, strict=True))
            running.update(futures)

    submit()
    while flying and not work.finished:
        try:
            batch = running.next_batch()
        except TimeoutError:  # time is up, but there is nothing to tell yet
            batch, running = [], _finishing([f for f, _ in flying.values()], client, None)
        chunks, lost = _gathered(batch, client)
        running.update(lost)
        for future in batch:
            if future in lost:
                continue
            _, job = flying.pop(future.key)
            if suspects.take(job, future):
                continue
            result = _result(task, future, job, chunks.pop(future.key, None))
            future.release()
            work.take(result)
            progress(result)
        submit()
    client.cancel([future for future, _ in flying.values()])


def _finishing(futures: Sequence[Any], client: Client, deadline: float | None) -> Any:
    """Return what gives futures as they finish, and raises TimeoutError from a deadline on."""
    from distributed import as_completed

    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    return as_completed(futures, loop=client.loop, timeout=timeout)


def _submitted(jobs: dask.array.Array, client: Client) -> list[Any]:
    chunks = list(jobs.to_delayed(optimize_graph=False).ravel())
    # by default graphs of one minute are mixed, and the first round of a race may come last
    futures: list[Any] = client.compute(chunks, optimize_graph=False, fifo_timeout="0 s")
    return futures


def _window(client: Client) -> int:
    """Jobs in flight: enough that no worker waits, few enough that a scheduler never feels it."""
    threads: dict[str, int] = client.nthreads()
    return max(4, 3 * sum(threads.values()))


def _gathered(batch: Sequence[Any], client: Client) -> tuple[dict[str, Any], list[Any]]:
    """Return the chunks of jobs that ended together, by key, and whose result was lost since.

    They are fetched in one round. Where that fails none is returned: each is asked for by itself,
    and tells why. The only copy of a result is with the worker that computed it: if that died since
    then, its task is run again, and waited for again.

    Raises
    ------
    SchedulerLostError
        If the scheduler is gone.
    """
    status = {future.key: future.status for future in batch}
    if CANCELLED in status.values():
        raise SchedulerLostError(GONE)
    lost = [future for future in batch if status[future.key] in LOST]
    finished = [future for future in batch if status[future.key] == "finished"]
    try:
        results = client.gather(finished) if finished else []
        return dict(zip([f.key for f in finished], results, strict=True)), lost
    except (Exception, *CANCELLATIONS) as error:
        if client.status != "running":
            raise SchedulerLostError(GONE) from error
        return {}, lost


def _result(task: Task[ResultT], future: Any, job: Job, chunk: Any | None) -> ResultT:
    """Return what a job gave; a job whose task died is given up, with the cause."""
    if chunk is None:
        if (error := future.exception()) is not None:
            return task.give_up(job, error)
        try:
            chunk = future.result()
        except CANCELLATIONS as error:
            raise SchedulerLostError(GONE) from error
    result: ResultT = chunk[0]
    return result
