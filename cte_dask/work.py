"""What a run asks for: blocks and models, handed out and taken back by whoever runs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from cte_dask.scores import DONE
from cte_dask.scoring import STATUS, BlockScores, failed_block, score_block

if TYPE_CHECKING:
    from cte_dask.experiment import Experiment
    from cte_dask.scores import Scores
    from cte_dask.sharding import Shard

__all__ = ["Job", "Listed", "Work", "failed_job", "missing_jobs", "score_job"]


@dataclass(frozen=True, slots=True)
class Job:
    """A block to score.

    Parameters
    ----------
    block
        Its number.
    models
        Numbers of the models to score it for; None for all.
    """

    block: int
    models: tuple[int, ...] | None = None


class Work(Protocol):
    """The jobs of a run, which may depend on what came of earlier ones."""

    @property
    def most(self) -> int:
        """Blocks that may be handed out at most."""

    @property
    def taken(self) -> int:
        """Blocks that were scored without any failure and taken in."""

    @property
    def finished(self) -> bool:
        """Whether nothing more is wanted: what is still running may be dropped."""

    @property
    def deadline(self) -> float | None:
        """`time.monotonic` at which one should look whether it is finished; None for no such."""

    def jobs(self, most: int) -> list[Job]:
        """Return the next jobs, `most` at most; none may be known until others are taken in."""

    def take(self, scores: BlockScores) -> None:
        """Take in what came of a job, in any order."""


class Listed:
    """Jobs that are known from the start.

    Parameters
    ----------
    jobs
        In the order in which they are handed out.
    """

    finished = False
    deadline = None

    def __init__(self, jobs: Iterable[Job]) -> None:
        listed = list(jobs)
        self.most, self.taken = len(listed), 0
        self._waiting: Iterator[Job] = iter(listed)

    def jobs(self, most: int) -> list[Job]:
        """Return the next jobs."""
        return list(islice(self._waiting, most))

    def take(self, scores: BlockScores) -> None:
        """Take in what came of a job: nothing depends on it."""
        self.taken += not scores.failures


def missing_jobs(scores: Scores, shard: Shard | None = None) -> list[Job]:
    """Return what a store lacks, as jobs.

    Parameters
    ----------
    scores
        The store.
    shard
        The part of the blocks that is ours; None for all.
    """
    done = scores.done()
    missing = [int(i) for i in scores.missing()]
    missing = missing if shard is None else shard.part(missing)
    partial = DONE["partial"]
    return [Job(i, scores.lacking(i) if done[i] == partial else None) for i in missing]


def score_job(experiment: Experiment, job: Job) -> BlockScores:
    """Score a block for the models of a job; the others are ``absent``.

    See `cte_dask.scoring.score_block`. No number of a model depends on the others of its bank;
    metrics of the whole bank need all of them.
    """
    if job.models is None:
        return score_block(experiment, job.block)
    return _placed(experiment, job, score_block(_part(experiment, job), job.block))


def failed_job(experiment: Experiment, job: Job, cause: str) -> BlockScores:
    """Return what is written of a job of which nothing was computed, and why."""
    part = _part(experiment, job)
    causes = {candidate.name: cause for candidate in part.candidates}
    return _placed(experiment, job, failed_block(part, job.block, causes))


def _part(experiment: Experiment, job: Job) -> Experiment:
    if job.models is None:
        return experiment
    return replace(experiment, candidates=tuple(experiment.candidates[m] for m in job.models))


def _placed(experiment: Experiment, job: Job, found: BlockScores) -> BlockScores:
    """Put the numbers of a job's models where they belong among those of the bank."""
    if job.models is None:
        return found
    scores = failed_block(experiment, job.block, found.failures)
    scores.values[:, :, -1] = STATUS["absent"]
    scores.values[list(job.models)] = found.values
    return scores
