"""Running an experiment: the one place that talks to a scheduler.

`blocks_array` is the work as a Dask collection that carries coordinates, not voxels: one task a
block, which reads its own part of the target. The runner asks for it a window of jobs at a time,
so that a scheduler never holds more than a few thousand tasks, and results are released as they
arrive. `run_serially` is the specification; every other way is tested against it. Which blocks are
wanted, and when that is enough, is not decided here: see `cte_dask.engine.jobs`.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.jobs import Job, Listed, Work, missing_jobs, score_job
from cte_dask.engine.lost_workers import (
    GONE,
    GONE_STATUS,
    SchedulerLostError,
    Suspects,
    cause_of,
    scheduler_needed,
)
from cte_dask.results.block_codec import COLUMNS, decoded, encoded
from cte_dask.scoring.bank_overlaps import overlap_rows
from cte_dask.scoring.block_scores import BlockScores
from cte_dask.scoring.score_block import score_block

if TYPE_CHECKING:
    import dask.array
    from distributed import Client

    from cte_dask.results.store import Scores
    from cte_dask.scoring.experiment import Experiment

__all__ = ["blocks_array", "overlaps_array", "run", "run_serially", "run_with_dask"]

Progress = Callable[[BlockScores], None]
RETRIES = 2


def blocks_array(
    experiment: Experiment,
    indices: Sequence[int],
    *,
    models: Sequence[tuple[int, ...] | None] | None = None,
    url: str | None = None,
) -> dask.array.Array:
    """Return the scores of some blocks as a lazy array, one task a block.

    Parameters
    ----------
    experiment
        The run.
    indices
        Numbers of the blocks.
    models
        Which models to score each block for, None for all of them; by default all everywhere.
    url
        Score store that each task writes its block to; None writes nothing.

    Returns
    -------
    dask.array.Array
        float64 (model, draw, column, tile): the tiles of the blocks, in the order of `indices`, as
        `cte_dask.results.block_codec` reads them.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import delayed

    numbers = tuple(map(int, indices))
    # every task carries these: a window's jobs themselves would be most of what is sent
    parts = tuple(models) if models is not None and any(m is not None for m in models) else None
    draws = len(experiment.perturbations) * experiment.repeats
    tiles = tuple(experiment.blocks.tile_count(number) for number in numbers)
    token = tokenize(experiment, numbers, parts, url)
    # one name for all windows of a run: what it needs is with the workers already
    whole = f"experiment-{tokenize(experiment, url)}"
    shared = experiment if url is None else Checkpoint(experiment, url)
    array: dask.array.Array = da.map_blocks(
        _scored_chunk,
        delayed(shared, name=whole, traverse=False),
        numbers,
        parts,
        chunks=((len(experiment.candidates),), (draws,), (len(COLUMNS),), tiles),
        dtype=np.float64,
        meta=np.empty((0, 0, 0, 0)),
        name=f"score-block-{token}",
    )
    return array


def overlaps_array(
    experiment: Experiment, indices: Sequence[int]
) -> tuple[dask.array.Array, dask.array.Array]:
    """Return the scores of some blocks and how the bank's models overlap, as lazy arrays.

    Parameters
    ----------
    experiment
        The run; a metric of the whole bank must be among its own.
    indices
        Numbers of the blocks.

    Returns
    -------
    tuple of dask.array.Array
        float64 (model, draw, column, tile), as `blocks_array`, and (row, tile). Both are parts of
        one task a block: computed together, each block is scored once.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import delayed

    models = len(experiment.candidates)
    draws = len(experiment.perturbations) * experiment.repeats
    whole = delayed(experiment, name=f"experiment-{tokenize(experiment)}", traverse=False)
    values, overlaps = [], []
    for i in map(int, indices):
        block = delayed(score_block)(
            whole, i, dask_key_name=f"score-block-{tokenize(experiment, i)}"
        )
        tiles = experiment.blocks.tile_count(i)
        shape = (models, draws, len(COLUMNS), tiles)
        values.append(da.from_delayed(delayed(encoded)(block.tiles), shape, dtype=np.float64))
        rows = (overlap_rows(models), tiles)
        overlaps.append(da.from_delayed(block.overlaps, rows, dtype=np.float64))
    return da.concatenate(values, axis=-1), da.concatenate(overlaps, axis=-1)


def _scored_chunk(
    shared: Experiment | Checkpoint,
    numbers: tuple[int, ...],
    parts: tuple[tuple[int, ...] | None, ...] | None,
    block_id: tuple[int, ...] = (),
) -> np.ndarray[Any, np.dtype[np.float64]]:
    place = block_id[-1]
    job = Job(numbers[place], parts[place] if parts else None)
    scores = shared.score(job) if isinstance(shared, Checkpoint) else score_job(shared, job)
    return encoded(scores.tiles)


def run(
    experiment: Experiment,
    url: str,
    scores: Scores,
    *,
    client: Client | None = None,
    work: Work | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Score what is wanted, and write it to the store.

    Parameters
    ----------
    experiment
        The run.
    url
        The score store.
    scores
        The store, opened.
    client
        A Dask client; None runs in this process.
    work
        What is wanted; by default every block that the store lacks.
    progress
        Called in this process with each finished block.

    Raises
    ------
    SchedulerLostError
        If the scheduler of `client` is gone.
    """
    work = Listed(missing_jobs(scores)) if work is None else work
    if client is None:
        _run_here(experiment, url, work, progress)
    else:
        with scheduler_needed():
            run_with_dask(experiment, url, work, progress, client)


def run_serially(experiment: Experiment, url: str, todo: Sequence[int], progress: Progress) -> None:
    """Score blocks one after another in this process: what every other way must equal."""
    _run_here(experiment, url, Listed(map(Job, todo)), progress)


def _run_here(experiment: Experiment, url: str, work: Work, progress: Progress) -> None:
    checkpoint = Checkpoint(experiment, url)
    while not work.finished and (jobs := work.jobs(1)):
        for job in jobs:
            scores = checkpoint.score(job)
            work.take(scores)
            progress(scores)


def run_with_dask(
    experiment: Experiment, url: str, work: Work, progress: Progress, client: Client
) -> None:
    """Score blocks on a cluster, a window at a time; each task writes what it made."""
    window, suspects, checkpoint = 0, Suspects(), Checkpoint(experiment, url)
    flying: dict[Any, tuple[Any, Job]] = {}
    running = _finishing([], client, work.deadline)

    def submit() -> None:
        nonlocal window
        if 3 * len(flying) > 2 * window:
            return  # a graph for each block that ends would cost more than the block's own task
        window = _window(client)
        jobs = work.jobs(max(0, window - len(flying)))
        if jobs := jobs or ([] if flying else suspects.next()):
            indices, models = [j.block for j in jobs], [j.models for j in jobs]
            blocks = blocks_array(experiment, indices, models=models, url=url)
            futures = _submitted(blocks, client)
            flying.update((f.key, (f, j)) for f, j in zip(futures, jobs, strict=True))
            running.update(futures)

    submit()
    while flying and not work.finished:
        try:
            batch = running.next_batch()
        except TimeoutError:  # time is up, but there is nothing to tell yet
            batch, running = [], _finishing([f for f, _ in flying.values()], client, None)
        values = _gathered(batch, client)
        for future in batch:
            _, job = flying.pop(future.key)
            if suspects.take(job, future):
                continue
            scores = _result(future, job, checkpoint, values.pop(future.key, None))
            future.release()
            work.take(scores)
            progress(scores)
        submit()
    client.cancel([future for future, _ in flying.values()])


def _finishing(futures: Sequence[Any], client: Client, deadline: float | None) -> Any:
    """Return what gives futures as they finish, and raises TimeoutError from a deadline on."""
    from distributed import as_completed

    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    return as_completed(futures, loop=client.loop, timeout=timeout)


def _submitted(blocks: dask.array.Array, client: Client) -> list[Any]:
    chunks = list(blocks.to_delayed(optimize_graph=False).ravel())
    # by default graphs of one minute are mixed, and the first round of a race may come last
    futures: list[Any] = client.compute(
        chunks, optimize_graph=False, retries=RETRIES, fifo_timeout="0 s"
    )
    return futures


def _window(client: Client) -> int:
    """Blocks in flight: enough that no worker waits, few enough that a scheduler never feels it."""
    threads: dict[str, int] = client.nthreads()
    return max(4, 3 * sum(threads.values()))


def _gathered(batch: Sequence[Any], client: Client) -> dict[str, Any]:
    """Return the numbers of blocks that ended together, by key; none if one cannot be had.

    They are fetched in one round. Where that fails, each is asked for by itself, and tells why.

    Raises
    ------
    SchedulerLostError
        If the scheduler is gone.
    """
    status = {future.key: future.status for future in batch}
    if GONE_STATUS & set(status.values()):
        raise SchedulerLostError(GONE)
    done = [future for future in batch if status[future.key] == "finished"]
    try:
        return dict(zip([f.key for f in done], client.gather(done), strict=True)) if done else {}
    except (Exception, CancelledError) as error:
        if client.status != "running":
            raise SchedulerLostError(GONE) from error
        return {}


def _result(
    future: Any, job: Job, checkpoint: Checkpoint, values: Any | None = None
) -> BlockScores:
    """Return a finished block; a block whose task died is written as failed, with the cause."""
    if future.status != "finished":
        return checkpoint.give_up(job, cause_of(future.exception()))
    tiles = decoded(future.result() if values is None else values)
    failed = bool(tiles.has_status("failed").any())
    return BlockScores(job.block, tiles, checkpoint.store.failures(job.block) if failed else {})
