"""The options of rank, plan and calibrate, put together from those of the rooms below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from cte_dask.engine.clusters import ClusterOptions
from cte_dask.engine.racing.goal import TYPICAL_BLOCKS, GoalOptions
from cte_dask.scoring.settings import METRICS_HELP, InferenceOptions, ScoringOptions

if TYPE_CHECKING:
    from distributed import Client

    from cte_dask.engine.anytime import Anytime
    from cte_dask.results.layout import Layout
    from cte_dask.scoring.block_scores import BlockScores
    from cte_dask.tiles import BlockGrid

__all__ = ["CalibrationOptions", "PlanOptions", "RankOptions", "ShowProgress"]

Progress = Callable[["BlockScores"], None]


class ShowProgress(Protocol):
    """What shows a run's progress while its context lasts."""

    def __call__(
        self, layout: Layout, blocks: int, race: Anytime | None, /
    ) -> AbstractContextManager[Progress]:
        """Return a context that gives what takes each finished block.

        Parameters
        ----------
        layout
            What the numbers of a block mean.
        blocks
            Blocks to do.
        race
            The work of an anytime run, which may end long before all blocks are done.
        """


def show_nothing(
    _layout: Layout, _blocks: int, _race: Anytime | None
) -> AbstractContextManager[Progress]:
    """Show no progress."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ScoringOptions, ClusterOptions, GoalOptions):
    """What decides the cost of a run."""

    @property
    def budget(self) -> float | None:
        """Seconds that an anytime run may spend; None for as many as it takes."""
        goal = self.goal(1)  # what `until` says does not depend on the target
        return None if goal is None else goal.seconds

    def draws_blocks(self, blocks: int, /) -> bool:
        """Tell whether of so many blocks some are drawn: whether the run is an anytime one."""
        return self.goal(blocks) is not None

    def expected_blocks(self, blocks: BlockGrid, /, *, voting: bool) -> int:
        """Return the blocks that a model is expected to be scored on.

        An anytime run that looks for the best model is taken for one that ends where half of the
        simulated ones did (`TYPICAL_BLOCKS`), or where its blocks or its tables of votes are full.
        What the order of all models takes, or the best few, depends on how near they are to each
        other: nothing but those two ends is known of it, and it is taken to reach them.

        Parameters
        ----------
        blocks
            The blocks of the target.
        voting
            Whether models are compared by what the bank says.
        """
        from cte_dask.engine.anytime import most_blocks

        goal = self.goal(len(blocks)) if self.draws_blocks(len(blocks)) else None
        if goal is None:
            return len(blocks)
        most = most_blocks(blocks, goal, voting=voting)
        return min(most, TYPICAL_BLOCKS[0]) if goal.top == 1 else most


@dataclass(frozen=True, kw_only=True)
class RankOptions(PlanOptions):
    """All options of ``cte rank`` beside target, bank and results.

    Parameters
    ----------
    labels
        Folder of tiles that somebody labelled, see `cte_dask.ranking.suggest`: they correct the
        ranking. A resumed run goes on with those that it was given before.
    shard
        The part of the blocks to score, ``i/n``; the shard that finds all done ranks them.
    resume, overwrite
        Whether to go on with results that exist, or to drop them.
    progress
        Shows how far a run is.
    """

    labels: Annotated[
        str | None,
        "Folder of tiles that you labelled, made by cte suggest: they correct the ranking.",
    ] = None
    shard: Annotated[str | None, "Score part i of n of the blocks; all n share --out."] = None
    resume: Annotated[bool, "Go on with the run that is there."] = False
    overwrite: Annotated[bool, "Drop what is there."] = False
    progress: ShowProgress = show_nothing

    def draws_blocks(self, blocks: int, /) -> bool:
        """See `PlanOptions.draws_blocks`; a shard scores its part of all."""
        return self.shard is None and PlanOptions.draws_blocks(self, blocks)


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(InferenceOptions):
    """What is tried, on which tiles; the options of `cte_dask.calibrate`.

    Parameters
    ----------
    kind
        A perturbation that every model supports: dropout, gaussian, brightness, contrast, gamma,
        or one of your own.
    grid
        Strengths, from weak to strong; by default the usual ones of the kind.
    metric
        The metric of consistency.
    pilot_tiles
        Tiles to try them on, spread over the target
        (`cte_dask.ranking.calibration.calibrate.pilot_indices`).
    repeats
        Perturbed runs a strength; by default `PILOT_REPEATS` where draws are random, else 1.
    client
        A Dask client; None computes in this process. The numbers are the same.
    """

    kind: str = "dropout"
    grid: Sequence[float] | None = None
    metric: Annotated[str, METRICS_HELP] = "nhd"
    pilot_tiles: Annotated[int, "Tiles to try the strengths on."] = 64
    repeats: Annotated[
        int | None, "Perturbed runs of each strength; by default 4 of random kinds, else 1."
    ] = None
    client: Client | None = None
