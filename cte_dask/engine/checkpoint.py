"""Scoring a block once: what a store holds complete is not computed, nor written, again.

Where the models of a job do not fit into memory together they are scored in groups.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cte_dask.engine.lost_workers import cause_of
from cte_dask.inference.memory import bytes_for_models, groups_that_fit
from cte_dask.results.store import DONE, Scores, open_scores
from cte_dask.scoring.block_scores import BlockScores
from cte_dask.scoring.score_block import failed_block, score_block

if TYPE_CHECKING:
    from cte_dask.engine.jobs import Job
    from cte_dask.scoring.experiment import Experiment

__all__ = ["Checkpoint", "ScoreBlock", "failed_job", "score_job"]


@dataclass(frozen=True)
class ScoreBlock:
    """Score a block and keep nothing; see `cte_dask.engine.dask_runner.Task`."""

    experiment: Experiment
    name: str = "score-block"

    def __call__(self, job: Job) -> BlockScores:
        """Return a block's scores."""
        return score_job(self.experiment, job)

    def give_up(self, job: Job, error: BaseException) -> BlockScores:
        """Return the scores of a block of which nothing was computed, and why."""
        return failed_job(self.experiment, job, cause_of(error))


@dataclass(frozen=True)
class Checkpoint:
    """An experiment and the store that its blocks are written to: what all its tasks share.

    The store's documents are read with the first block; every process opens the store itself.

    Parameters
    ----------
    experiment
        The run.
    url
        The score store.
    """

    experiment: Experiment
    url: str

    @cached_property
    def store(self) -> Scores:
        """The store, to read and write."""
        return open_scores(self.url, writable=True)

    @property
    def name(self) -> str:
        """What its tasks are called on a dashboard."""
        return "score-block"

    def __call__(self, job: Job) -> BlockScores:
        """Return a block's scores, computed and written unless the store has them complete.

        A worker may die between a block's mark and telling the scheduler, and a client that dies
        leaves tasks behind that go on: the same block is then asked for again, with the first
        answer already there, or about to be. Of two that compute it at once, the first one's stays.

        Parameters
        ----------
        job
            The block, and the models it is wanted for.

        Raises
        ------
        OSError
            If the store's disk is full; blocks that are complete stay, the run can be resumed.
        """
        if (stored := self._complete(job.block)) is not None:
            return stored
        scores = score_job(self.experiment, job)
        if self.store.mark(job.block) != DONE["complete"]:
            self._write(scores)
        return replace(scores, overlaps=None)  # they are in the store; nobody waits for them

    def give_up(self, job: Job, error: BaseException) -> BlockScores:
        """Write and return the scores of a block of which nothing was computed, and why."""
        scores = failed_job(self.experiment, job, cause_of(error))
        self._write(scores)
        return scores

    def _complete(self, index: int) -> BlockScores | None:
        store = self.store
        if store.mark(index) != DONE["complete"]:
            return None
        return BlockScores(index, store.block(index), {})

    def _write(self, scores: BlockScores) -> None:
        try:
            self.store.write(scores)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            message = f"no space left for {self.url}: make room, then go on with --resume"
            raise OSError(errno.ENOSPC, message) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"experiment": self.experiment, "url": self.url}


def score_job(experiment: Experiment, job: Job) -> BlockScores:
    """Score a block for the models of a job; the others are ``absent``.

    See `cte_dask.scoring.score_block.score_block`. No number of a model depends on the others of
    its bank; metrics of the whole bank need all of them. Models that do not fit into memory
    together are taken in groups, each of which reads the block anew (`cte_dask.inference.memory`).
    """
    groups = list(_groups(experiment, job))
    if len(groups) == 1 and job.models is None:
        return score_block(experiment, job.block)
    scores = failed_block(experiment, job.block, {})
    scores.mark(range(len(experiment.candidates)), "absent")
    for group in groups:
        group_scores = score_block(_restricted(experiment, group), job.block)
        scores.tiles[list(group)] = group_scores.tiles
        scores.failures.update(group_scores.failures)
    return scores


def _groups(experiment: Experiment, job: Job) -> Iterator[tuple[int, ...]]:
    """Yield the models of a job, as many at a time as fit into this process's memory."""
    models = tuple(range(len(experiment.candidates))) if job.models is None else job.models
    if experiment.bank_metrics:
        yield models
        return
    sizes = [experiment.candidates[number].bytes for number in models]
    for group in groups_that_fit(sizes, bytes_for_models(experiment.device)):
        yield models[group.start : group.stop]


def failed_job(experiment: Experiment, job: Job, cause: str) -> BlockScores:
    """Return what is written of a job of which nothing was computed, and why."""
    names = [c.name for c in experiment.candidates]
    numbers = range(len(names)) if job.models is None else job.models
    scores = failed_block(experiment, job.block, {names[number]: cause for number in numbers})
    scores.mark([i for i in range(len(names)) if i not in numbers], "absent")
    return scores


def _restricted(experiment: Experiment, models: tuple[int, ...]) -> Experiment:
    """Return the experiment with some of its models alone."""
    if len(models) == len(experiment.candidates):
        return experiment
    return replace(experiment, candidates=tuple(experiment.candidates[m] for m in models))
