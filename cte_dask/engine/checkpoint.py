"""Scoring a block once: what a store holds complete is not computed, nor written, again."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cte_dask.engine.lost_workers import cause_of
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

    def trials(self, job: Job) -> list[Job]:
        """Return jobs that try its models one by one."""
        return job.trials(len(self.experiment.candidates))

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
        if job.trial:
            return scores
        if self.store.mark(job.block) != DONE["complete"]:
            self._write(scores)
        return replace(scores, votes=None, precision=None)  # in the store; nobody waits for them

    def trials(self, job: Job) -> list[Job]:
        """Return jobs that try its models one by one."""
        return job.trials(len(self.experiment.candidates))

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
    """Score a block for the models of a job; see `cte_dask.scoring.score_block.score_block`."""
    if not job.aside:
        return score_block(experiment, job.block, models=job.models, votes=job.votes)
    aside, every = dict(job.aside), range(len(experiment.candidates))
    wanted = every if job.models is None else job.models
    tried = [number for number in wanted if number not in aside]
    scores = score_block(experiment, job.block, models=tried, votes=job.votes)
    for number in set(wanted) & aside.keys():
        scores.failures[experiment.candidates[number].name] = aside[number]
        scores.mark([number], "failed")
    return scores


def failed_job(experiment: Experiment, job: Job, cause: str) -> BlockScores:
    """Return what is written of a job of which nothing was computed, and why."""
    names = [c.name for c in experiment.candidates]
    wanted = names if job.models is None else [names[number] for number in job.models]
    return failed_block(experiment, job.block, dict.fromkeys(wanted, cause), models=job.models)
