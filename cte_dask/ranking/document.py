"""The content of ``ranking.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cte_dask.engine.racing.decision import verdict
from cte_dask.results.layout import DONE
from cte_dask.results.skipped import skipped
from cte_dask.volume.statistics import not_stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cte_dask.engine.racing.decision import Decision
    from cte_dask.ranking.rank import ModelRank, Ranking
    from cte_dask.results.store import Scores
    from cte_dask.scoring.experiment import Experiment

__all__ = ["contradiction", "ranking_dict"]


RANKING_SCHEMA = "cte-ranking/1"


def ranking_dict(
    experiment: Experiment,
    ranking: Ranking,
    scores: Scores,
    decision: Decision | None = None,
    *,
    label_failures: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Return the content of ``ranking.json``.

    Parameters
    ----------
    experiment, ranking, scores
        The run, its ranking, and what that counts.
    decision
        What an anytime run came to; None of an exhaustive one.
    label_failures
        Why models could not be measured on labelled tiles, by number of the tile.
    """
    from cte_dask.scoring.experiment import versions

    marks = scores.done()
    if decision is None:
        reached = bool((marks == DONE["complete"]).all())
    else:
        reached = decision.stopped != "interrupted" and not (marks == DONE["failures"]).any()
    complete = bool(reached) and not any(m.excluded for m in ranking.models)
    complete = complete and not label_failures
    answer: dict[str, Any] = {}
    if decision is not None:
        answer = {**decision.to_dict(), "verdict": verdict(decision)}
        answer["contradiction"] = contradiction(ranking, decision)
    return {
        "schema": RANKING_SCHEMA,
        "primary": ranking.primary,
        "score": ranking.score,
        "complete": complete,
        "blocks": {
            "total": len(marks),
            "done": int((marks == DONE["complete"]).sum()),
            "failed": int((marks == DONE["failures"]).sum()),
            **({} if decision is None else {"sampled": decision.blocks}),
        },
        **answer,
        **({"skipped": left_out} if (left_out := skipped(scores)) else {}),
        **({"not_stored": text} if (text := not_stored(experiment.volume)) else {}),
        **({"doubt": text} if (text := _doubt(experiment)) else {}),
        **({"label_failures": label_failures} if label_failures else {}),
        "target": experiment.volume.describe(),
        "seed": experiment.seed,
        "experiment": experiment.digest(),
        "models": [{**m.to_dict(), "candidate": experiment.way_of(m.name)} for m in ranking.models],
        "bank": {**ranking.bank.to_dict(), "as_good": list(ranking.as_good)},
        "versions": versions(),
    }


def contradiction(ranking: Ranking, decision: Decision) -> str | None:
    """Return what the last fit, of all that was read, says against what a race has proven.

    A race compares tiles under a fit of its first blocks (`cte_dask.ranking.frozen`).

    Parameters
    ----------
    ranking, decision
        Of an anytime run.

    Returns
    -------
    str or None
        None if nothing.
    """
    able = [m for m in ranking.models if m.rank is not None and not m.degenerate]
    if decision.stopped != "decided" or ranking.primary == ranking.score or not able:
        return None

    def number(model: ModelRank) -> float:
        return ranking.value(model).value

    leader = max(able, key=number)
    proven = [number(m) for m in able if m.name in decision.best]
    margin = number(leader) - max(proven, default=-1.0)
    if leader.name in decision.best or margin <= decision.goal.epsilon:
        return None
    if ranking.bank.labelled:
        return (
            f"corrected by the labelled tiles, {leader.name} is ahead by {margin:.3f}: the race "
            "compared estimates, without labels"
        )
    return (
        f"fitted to all blocks that were read, {leader.name} is ahead by {margin:.3f}: the first "
        "blocks were not like the rest; --exhaustive settles it"
    )


def _doubt(experiment: Experiment) -> str:
    return "" if experiment.intensity is None else experiment.intensity.doubt
