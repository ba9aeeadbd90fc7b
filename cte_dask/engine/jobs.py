"""What a run asks for: blocks and models, handed out and taken back by whoever runs them.

A `Shard` is one process's share of the blocks, where processes know nothing of each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from cte_dask.results.store import Scores

__all__ = ["Job", "Listed", "Result", "Shard", "Work", "missing_jobs"]


@dataclass(frozen=True, slots=True)
class Job:
    """A block to score.

    Parameters
    ----------
    block
        Its number.
    models
        Numbers of the models to score it for; None for all.
    votes
        Whether its tables of vote patterns are kept.
    aside
        Numbers of models that are not tried, and what is told of each in place of scores.
    trial
        Whether it is done to see if it can be done, and nothing is kept of it.
    """

    block: int
    models: tuple[int, ...] | None = None
    votes: bool = True
    aside: tuple[tuple[int, str], ...] = ()
    trial: bool = False

    def trials(self, models: int) -> list[Job]:
        """Return what tries its models one by one, those that are set aside left out.

        Parameters
        ----------
        models
            How many the run has.
        """
        wanted = range(models) if self.models is None else self.models
        tried = [m for m in wanted if m not in dict(self.aside)]
        return [Job(self.block, (m,), votes=False, trial=True) for m in tried]


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
    """Return what a store lacks, as jobs: whole blocks, for their models vote together.

    Parameters
    ----------
    scores
        The store.
    shard
        The part of the blocks that is ours; None for all.
    """
    missing = [int(i) for i in scores.missing()]
    missing = missing if shard is None else shard.part(missing)
    tiles = len(scores.layout.blocks.grid)
    return [Job(i, votes=_in_sample(i, tiles)) for i in missing]


MOST_VOTING_TILES = 2**16
"""Tiles whose tables are kept: of a larger target an even sample, whose medians are as good."""
GOLDEN_RATIO = 0.6180339887498949


def _in_sample(block: int, tiles: int) -> bool:
    """Return whether a block is in the sample: multiples of the golden ratio spread evenly."""
    return block * GOLDEN_RATIO % 1 < MOST_VOTING_TILES / max(tiles, 1)


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
