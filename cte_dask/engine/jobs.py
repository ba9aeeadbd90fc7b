"""What a run asks for: blocks and models, handed out and taken back by whoever runs them.

A `Shard` is one process's share of the blocks, where processes know nothing of each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from cte_dask.inference.memory import bytes_for_models, groups_that_fit
from cte_dask.results.store import DONE
from cte_dask.scoring.block_scores import BlockScores
from cte_dask.scoring.score_block import failed_block, score_block

if TYPE_CHECKING:
    from cte_dask.results.store import Scores
    from cte_dask.scoring.experiment import Experiment

__all__ = ["Job", "Listed", "Result", "Shard", "Work", "failed_job", "missing_jobs", "score_job"]


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


class Result(Protocol):
    """What comes of a job."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Cause of failure by the name of a model; empty when all went well."""


ResultT_contra = TypeVar("ResultT_contra", bound=Result, contravariant=True)


class Work(Protocol[ResultT_contra]):
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

    def take(self, result: ResultT_contra) -> None:
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

    def take(self, result: Result) -> None:
        """Take in what came of a job: nothing depends on it."""
        self.taken += not result.failures


def missing_jobs(scores: Scores, shard: Shard | None = None) -> list[Job]:
    """Return what a store lacks, as jobs.

    Parameters
    ----------
    scores
        The store.
    shard
        The part of the blocks that is ours; None for all.
    """
    marks = scores.done()
    missing = [int(i) for i in scores.missing()]
    missing = missing if shard is None else shard.part(missing)
    partial = DONE["partial"]
    return [Job(i, scores.lacking(i) if marks[i] == partial else None) for i in missing]


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


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of a run.

    Parameters
    ----------
    number
        Which one, from 1.
    of
        How many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read a shard as the option ``--shard`` gives it.

        Raises
        ------
        ValueError
            If it is not ``i/n`` with i from 1 to n.

        Examples
        --------
        >>> Shard.parse("2/8")
        Shard(number=2, of=8)
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--shard {text!r} must be i/n with i from 1 to n, such as 1/8")
        return cls(int(match[1]), int(match[2]))

    def part(self, blocks: Iterable[int]) -> list[int]:
        """Return those of some blocks that are this shard's: every n-th of all blocks.

        Examples
        --------
        >>> Shard(2, 3).part(range(8))
        [1, 4, 7]
        """
        return [int(block) for block in blocks if block % self.of == self.number - 1]
