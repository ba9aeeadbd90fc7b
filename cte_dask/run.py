"""Running an experiment: the one place that talks to a scheduler.

`blocks_array` is the work as a Dask collection that carries coordinates, not voxels: one task a
block, which reads its own part of the target. The runner asks for it a window of blocks at a time,
so that a scheduler never holds more than a few thousand tasks, and results are released as they
arrive. `run_serially` is the specification; every other way is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.bank_overlaps import overlap_rows
from cte_dask.reason import reason
from cte_dask.scores import Scores, open_scores, write_block
from cte_dask.scoring import COLUMNS, STATUS, BlockScores, failed_block, score_block

if TYPE_CHECKING:
    import dask.array
    from distributed import Client

    from cte_dask.experiment import Experiment
    from cte_dask.sharding import Shard

__all__ = ["blocks_array", "overlaps_array", "run", "run_serially", "run_with_dask"]

Progress = Callable[[BlockScores], None]
RETRIES = 2


def blocks_array(
    experiment: Experiment, indices: Sequence[int], *, url: str | None = None
) -> dask.array.Array:
    """Return the scores of some blocks as a lazy array, one task a block.

    Parameters
    ----------
    experiment
        The run.
    indices
        Numbers of the blocks.
    url
        Score store that each task writes its block to; None writes nothing.

    Returns
    -------
    dask.array.Array
        float64 (model, draw, column, tile): the tiles of the blocks, in the order of `indices`.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import delayed

    blocks = experiment.blocks
    models = len(experiment.candidates)
    draws = len(experiment.perturbations) * experiment.repeats
    tiles = tuple(blocks.tile_count(i) for i in indices)
    token = tokenize(experiment, tuple(indices), url)
    array: dask.array.Array = da.map_blocks(
        _scored_chunk,
        delayed(experiment, name=f"experiment-{token}", traverse=False),
        tuple(int(i) for i in indices),
        url,
        chunks=((models,), (draws,), (len(COLUMNS),), tiles),
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
    experiment, indices
        As of `blocks_array`; a metric of the whole bank must be among the experiment's.

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
        values.append(da.from_delayed(block.values, shape, dtype=np.float64))
        rows = (overlap_rows(models), tiles)
        overlaps.append(da.from_delayed(block.overlaps, rows, dtype=np.float64))
    return da.concatenate(values, axis=-1), da.concatenate(overlaps, axis=-1)


def _scored_chunk(
    experiment: Experiment,
    indices: tuple[int, ...],
    url: str | None,
    block_id: tuple[int, ...] = (),
) -> np.ndarray[Any, np.dtype[np.float64]]:
    scores = score_block(experiment, indices[block_id[-1]])
    if url is not None:
        write_block(url, scores, tuple(c.name for c in experiment.candidates))
    return scores.values


def run(
    experiment: Experiment,
    url: str,
    scores: Scores,
    *,
    client: Client | None = None,
    shard: Shard | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Score every block that the store lacks, and write it there.

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
    shard
        The part of the blocks that is ours; None for all.
    progress
        Called in this process with each finished block.
    """
    todo = [int(i) for i in scores.missing()]
    todo = todo if shard is None else shard.part(todo)
    if client is None:
        run_serially(experiment, url, todo, progress)
    else:
        run_with_dask(experiment, url, todo, progress, client)


def run_serially(experiment: Experiment, url: str, todo: Sequence[int], progress: Progress) -> None:
    """Score blocks one after another in this process: what every other way must equal."""
    names = tuple(c.name for c in experiment.candidates)
    for index in todo:
        scores = score_block(experiment, index)
        write_block(url, scores, names)
        progress(scores)


def run_with_dask(
    experiment: Experiment, url: str, todo: Sequence[int], progress: Progress, client: Client
) -> None:
    """Score blocks on a cluster, a window at a time; each task writes what it made."""
    from distributed import as_completed

    waiting = iter(todo)
    running = as_completed(loop=client.loop)
    index_of: dict[Any, int] = {}

    def submit() -> None:
        indices = list(islice(waiting, max(0, _window(client) - len(index_of))))
        if indices:
            futures = _submitted(blocks_array(experiment, indices, url=url), client)
            index_of.update((f.key, i) for f, i in zip(futures, indices, strict=True))
            running.update(futures)

    submit()
    for batch in running.batches():
        for future in batch:
            progress(_result(future, experiment, index_of.pop(future.key), url))
            future.release()
        submit()


def _submitted(blocks: dask.array.Array, client: Client) -> list[Any]:
    chunks = list(blocks.to_delayed(optimize_graph=False).ravel())
    futures: list[Any] = client.compute(chunks, optimize_graph=False, retries=RETRIES)
    return futures


def _window(client: Client) -> int:
    """Blocks in flight: enough that no worker waits, few enough that a scheduler never feels it."""
    threads: dict[str, int] = client.nthreads()
    return max(4, 3 * sum(threads.values()))


def _result(future: Any, experiment: Experiment, index: int, url: str) -> BlockScores:
    """Return a finished block; a block whose task died is written as failed, with the cause."""
    if future.status == "finished":
        values = future.result()
        failed = bool((values[:, :, -1] == STATUS["failed"]).any())
        failures = open_scores(url).failures(index) if failed else {}
        return BlockScores(index, values, failures)
    error = future.exception()
    names = tuple(c.name for c in experiment.candidates)
    scores = failed_block(experiment, index, dict.fromkeys(names, reason(error)))
    write_block(url, scores, names)
    return scores
