"""How a run ends: what was scored is ranked and written, and an exit code says how it went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cte_dask.ranking.document import ranking_dict
from cte_dask.ranking.labels import label_failures, with_labels
from cte_dask.ranking.rank import Ranking, rank, with_intervals
from cte_dask.results.dataset import read_table, told_attributes
from cte_dask.results.store import DONE, count_all
from cte_dask.results.tables import ranking_csv, tile_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cte_dask.engine.anytime import Anytime
    from cte_dask.engine.jobs import Shard
    from cte_dask.engine.racing.decision import Decision
    from cte_dask.results.label_folder import LabelledTile
    from cte_dask.results.run_folder import RunFolder
    from cte_dask.results.store import Scores
    from cte_dask.scoring.experiment import Experiment

__all__ = ["EXIT", "Outcome", "all_tried", "concluded"]

EXIT = {"complete": 0, "bad input": 2, "incomplete": 3, "interrupted": 130}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Parameters
    ----------
    experiment, ranking
        The run and its ranking.
    result
        Content of ``ranking.json``.
    exit_code
        0 complete, 3 incomplete, 130 interrupted.
    decision
        What an anytime run came to; None of an exhaustive one.
    """

    experiment: Experiment
    ranking: Ranking
    result: dict[str, Any]
    exit_code: int
    decision: Decision | None = None


def concluded(
    folder: RunFolder,
    experiment: Experiment,
    scores: Scores,
    race: Anytime | None,
    *,
    interrupted: bool,
    shard: Shard | None,
    final: bool,
    labelled: Sequence[LabelledTile] = (),
) -> Outcome:
    """Rank what was scored, write the results, and say how it ended.

    Parameters
    ----------
    folder
        Where the results go.
    experiment, scores
        The run and its store.
    race
        The work of an anytime run; None of an exhaustive one.
    interrupted
        Whether somebody stopped it.
    shard
        The part of the blocks that was to be scored; None for all.
    final
        Whether the results are written: of several shards by the one that found every block tried
        before this began. Another may end while the scores are read.
    labelled
        Tiles that were to be measured, see `cte_dask.ranking.measure_labels.measure_labels`.
    """
    counted = count_all(scores) if race is None else race.count()
    table = read_table(counted)
    table.attrs.update(told_attributes(experiment))
    entries = folder.read_labels(experiment.digest())
    ranking, decision = rank(with_labels(table, entries)), None
    if race is not None:
        able = [m.name for m in ranking.models if m.rank is not None and not m.degenerate]
        decision = race.decision(interrupted=interrupted).led_by(able)
        if not ranking.bank.labelled:  # a race knows nothing of labels, nor do its intervals
            ranking = with_intervals(ranking, decision.intervals)
    failures = label_failures(entries, labelled)
    result = ranking_dict(experiment, ranking, counted, decision, label_failures=failures)
    complete = result["complete"] if final or shard is None else not shard.part(scores.missing())
    state = "interrupted" if interrupted else "complete" if complete else "incomplete"
    if final:
        folder.write_tiles(tile_tables(counted))
        folder.write_ranking(result, ranking_csv(result))
    return Outcome(experiment, ranking, result, EXIT[state], decision)


def all_tried(scores: Scores) -> bool:
    """Return whether every block was tried."""
    return bool((scores.done() != DONE["missing"]).all())
