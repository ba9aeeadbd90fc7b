"""An anytime run: asks for blocks round by round, drops beaten models, stops when it may.

Rounds may be in flight ahead of the decision, so that every worker is busy; they are taken in in
their own order, and of each only the models that were in the race then. So what is decided, and
what the ranking counts, depends neither on the number of workers nor on who is the fastest.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cte_dask.engine.jobs import MOST_VOTING_TILES, Job
from cte_dask.engine.racing import Race, Round, rounds
from cte_dask.engine.racing.decision import Decision
from cte_dask.engine.racing.order import FIRST_ROUND
from cte_dask.engine.racing.watch import BlockTiles, Watch
from cte_dask.results.dataset import consistency_of, mean_consistency
from cte_dask.results.layout import Layout, layout_of
from cte_dask.results.store import DONE, count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.consistency.vote_patterns import VoteTables
    from cte_dask.engine.racing.goal import Goal, GoalOptions
    from cte_dask.results.store import Scores
    from cte_dask.scoring.block_scores import BlockScores, TileScores
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.tiles import BlockGrid

__all__ = ["Anytime", "BlockNumbers", "TileValues", "block_tiles", "goal_for", "most_blocks"]

PILOT_BLOCKS, PILOT_TILES = 8, 64
"""Least blocks and tiles of a first round from which it is learnt what the bank says."""

PATIENCE = 2
"""Rounds after which a model that never gave a number no longer holds up the others."""


def goal_for(blocks: int, options: GoalOptions, *, shard: bool = False) -> Goal | None:
    """Return what a run is to find out; None if it is to score every block.

    Parameters
    ----------
    blocks
        Number of blocks of the target.
    options
        What is to be found out.
    shard
        Whether it is one of several that share the blocks.

    Raises
    ------
    ValueError
        If an anytime run was asked for and cannot be.
    """
    if shard and options.anytime:
        raise ValueError(
            "--shard scores a fixed part of the blocks: leave out --until, --top and --full-order"
        )
    goal = options.goal(blocks)
    return None if shard else goal


def most_blocks(blocks: BlockGrid, goal: Goal, *, voting: bool) -> int:
    """Return the most blocks that an anytime run scores, decided or not.

    Parameters
    ----------
    blocks
        The blocks of the target.
    goal
        What may be spent.
    voting
        Whether models are compared by what the bank says: that lies in tables, of so many tiles at
        most.
    """
    most = min(len(blocks), goal.blocks or len(blocks))
    return min(most, max(1, MOST_VOTING_TILES // blocks.tiles_per_block)) if voting else most


@dataclass(frozen=True, slots=True, eq=False)
class BlockNumbers:
    """What a block's tiles say, for whoever ranks by them.

    Parameters
    ----------
    consistency
        Of each model on each tile, the mean over the perturbations that all support, (model, tile).
    votes
        Its vote patterns.
    precision
        How precisely each pair's objects match, (pair, tile); None unless instances are compared.
    """

    consistency: NDArray[np.float64]
    votes: VoteTables
    precision: NDArray[np.float64] | None = None


class TileValues(Protocol):
    """The numbers that a race compares, fixed once the first round is known."""

    @property
    def panel(self) -> NDArray[np.bool_]:
        """Models that are scored to the end, for others are judged by them, bool (model,)."""

    def learn(self, blocks: Sequence[BlockNumbers], usable: NDArray[np.bool_]) -> None:
        """Take in the first round, of models that are not degenerate on it."""

    def values(self, block: BlockNumbers) -> NDArray[np.float64]:
        """Return the numbers of a block's tiles, in [0, 1], (model, tile)."""


class Anytime:
    """The work of an anytime run; see `cte_dask.engine.jobs.Work`.

    Parameters
    ----------
    experiment
        The run.
    scores
        Its store; what it holds already is not scored again.
    goal
        What is to be found out, and what may be spent.
    values
        What models are compared by; None for the score that ranks alone.
    began
        `time.monotonic` from which a budget of time counts; by default now.
    """

    def __init__(
        self,
        experiment: Experiment,
        scores: Scores,
        goal: Goal,
        *,
        values: TileValues | None = None,
        began: float | None = None,
    ) -> None:
        blocks, models = experiment.blocks, len(experiment.candidates)
        self.goal, self.layout = goal, layout_of(experiment)
        self.deadline: float | None = None
        if goal.seconds is not None:
            self.deadline = (time.monotonic() if began is None else began) + goal.seconds
        tiles = blocks.tiles_per_block
        self.race = Race(models, tiles, goal.top, goal.delta, goal.epsilon)
        self.watch = Watch(models, tiles_per_block=tiles, delta=goal.delta, places=self.race.places)
        self._values = values
        self._sound = np.array([c.steady and not c.blind for c in experiment.candidates], bool)
        self._scores, self.taken = scores, 0
        self.most = most_blocks(blocks, goal, voting=values is not None)
        first = FIRST_ROUND if values is None else max(PILOT_BLOCKS, -(-PILOT_TILES // tiles))
        self._rounds = rounds(blocks.counts, seed=experiment.seed, first=first, most=self.most)
        self._in_flight: deque[Round] = deque()  # asked for, not yet taken in
        self._waiting: deque[Job] = deque()
        self._stored: set[int] = set()  # blocks whose numbers wait in the store for their round
        self._blocks: list[int] = []
        self._numbers = np.zeros(models, np.int64)
        self.aside: NDArray[np.bool_] = np.zeros(models, bool)
        self._exhausted = False

    @property
    def finished(self) -> bool:
        """Whether the answer is proven, the budget is spent, or nothing is left to read."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        idle = self._exhausted and not self._in_flight
        begun = self.race.rounds > 0
        return self.race.proven is not None or idle or (begun and (late or self.nobody))

    @property
    def nobody(self) -> bool:
        """Whether no model is left that could win."""
        return not (self.race.active & ~self.aside).any()

    @property
    def active(self) -> NDArray[np.bool_]:
        """Models that are still scored, (model,)."""
        return self.race.active if self._values is None else self.race.active | self._values.panel

    def jobs(self, most: int) -> list[Job]:
        """Return the next jobs, of as many rounds as it takes."""
        while len(self._waiting) < most and not self.finished and not self._exhausted:
            drawn = next(self._rounds, None)
            if drawn is None:
                self._exhausted = True
                break
            self._in_flight.append(drawn)
            for block in drawn.blocks:
                self._want(block)
            self._advance()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def take(self, scores: BlockScores) -> None:
        """Take in a finished block; those of a round count together, and in the rounds' order."""
        self.taken += not scores.failures
        self._stored.add(scores.index)
        self._advance()

    def decision(self, *, interrupted: bool = False) -> Decision:
        """Return what is known now, in names."""
        names, low, high = self.layout.models, *self.race.intervals()
        return Decision.of(
            self.race,
            names,
            goal=self.goal,
            total=len(self.layout.blocks),
            aside=[names[m] for m in np.flatnonzero(self.aside)],
            interrupted=interrupted,
            intervals=dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True)),
        )

    def summary(self) -> str:
        """Return the state of the race in a few words."""
        remaining, models = int((self.race.active & ~self.aside).sum()), self.race.models
        return f"{remaining} of {models} models are not beaten after {self.race.blocks} blocks"

    def count(self) -> Scores:
        """Note in the store what the ranking counts, and return that part of it.

        Before the first round is complete, it counts the blocks there are of it.
        """
        exact = self.race.blocks == len(self.layout.blocks)  # then medians are no estimates
        first = [] if exact else [self.layout.models[m] for m in self.race.proven or ()]
        if not self._blocks:
            blocks = [b for r in list(self._in_flight)[:1] for b in r.blocks if b in self._stored]
            return count(self._scores, blocks, [len(blocks)] * len(self.layout.models))
        last = len(self._blocks)
        racing = np.flatnonzero(self.active)
        models = [last if m in racing else self.race.dropped[m] for m in range(self.race.models)]
        return count(self._scores, self._blocks, models, first=first)

    def _want(self, block: int) -> None:
        """Ask for what a block lacks of the models in the race; what is stored is taken."""
        models = np.flatnonzero(self.active).tolist()
        if self._scores.mark(block) != DONE["missing"]:
            lacking = set(self._scores.lacking(block))
            if not (lacking & set(models)):
                self._stored.add(block)
                return
            if self._values is None:  # else they vote together
                models = [m for m in models if m in lacking]
        every_model = len(models) == len(self.layout.models)
        self._waiting.append(Job(block, None if every_model else tuple(models)))

    def _advance(self) -> None:
        while self._in_flight and self.race.proven is None and not self.nobody:
            drawn = self._in_flight[0]
            if any(block not in self._stored for block in drawn.blocks):
                return
            self._in_flight.popleft()
            self._observe(drawn)

    def _observe(self, drawn: Round) -> None:
        numbers = [self._scores.block(block) for block in drawn.blocks]
        tiles = [block_tiles(self.layout, n, self.active) for n in numbers]
        self._stored -= set(drawn.blocks)
        self._blocks += drawn.blocks
        self._numbers += sum(t.scored.sum(axis=1) for t in tiles)
        self.watch.observe(drawn, tiles)
        # a model that gave no number may have met empty blocks: it is waited for a while
        mute = (self._numbers == 0) & (self._numbers.max() > 0) & (self.race.rounds + 1 >= PATIENCE)
        self.aside = mute | self.watch.aside
        self.race.observe(
            drawn,
            [t.values for t in tiles] if self._values is None else self._judged(drawn, numbers),
            flagged=self._distrusted,
            aside=self.aside,
        )

    @property
    def _distrusted(self) -> NDArray[np.bool_]:
        """Models that may not win on what was read so far, (model,)."""
        distrusted: NDArray[np.bool_] = self.watch.flagged | ~self._sound
        return distrusted

    def _judged(self, drawn: Round, numbers: Sequence[TileScores]) -> list[NDArray[np.float64]]:
        """Return what the bank says of each model on the tiles of a round's blocks."""
        assert self._values is not None
        blocks = [
            BlockNumbers(
                mean_consistency(self.layout, tiles),
                self._scores.votes(block),
                self._scores.precision(block) if self.layout.instances else None,
            )
            for block, tiles in zip(drawn.blocks, numbers, strict=True)
        ]
        if not self.race.rounds:
            self._values.learn(blocks, ~self._distrusted)
        return [self._values.values(block) for block in blocks]


def block_tiles(layout: Layout, tiles: TileScores, active: NDArray[np.bool_]) -> BlockTiles:
    """Return what a race needs of a block, under the score that ranks.

    Parameters
    ----------
    layout
        What the numbers mean.
    tiles
        The block's numbers, (model, draw, tile).
    active
        Models that count, bool (model,); the others were not scored.
    """
    consistency = consistency_of(layout, tiles, layout.primary)
    first = tiles[:, layout.draws(layout.primary.perturbation)][:, 0]
    counted = active[:, None]
    foreground = first.statistics["n_reference"] / first.statistics["n_voxels"]
    return BlockTiles(np.where(counted, consistency, np.nan), first.scored & counted, foreground)
