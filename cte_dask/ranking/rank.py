"""From tile consistencies to a ranking: medians, intervals, flags and order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.degenerate import EVERYTHING, FAILED, NOTHING, flag
from cte_dask.consistency.score_names import ScoreName, score_names
from cte_dask.engine.racing.decision import verdict
from cte_dask.ranking.bootstrap import cells, median, median_interval
from cte_dask.ranking.combination import Combined, combine_scores, evidence
from cte_dask.ranking.order import placed
from cte_dask.results.bank_metrics import similarity_in
from cte_dask.results.skipped import skipped
from cte_dask.results.store import DONE, Scores
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.consistency.bank_agreement import Similarity
    from cte_dask.engine.racing.decision import Decision
    from cte_dask.scoring.experiment import Experiment

__all__ = [
    "EVERYTHING",
    "FAILED",
    "NOTHING",
    "ModelRank",
    "Ranking",
    "Score",
    "cells",
    "median_interval",
    "rank",
    "ranking_dict",
    "with_intervals",
]


@dataclass(frozen=True, slots=True)
class Score:
    """One model under one metric and perturbation.

    Parameters
    ----------
    cte
        Median consistency of the tiles, NaN ones left out; NaN if there is none.
    low, high
        95 % bootstrap interval of the median.
    n_tiles
        Tiles scored.
    nan_fraction
        Fraction of them without foreground in either prediction.
    """

    cte: float
    low: float
    high: float
    n_tiles: int
    nan_fraction: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain data; NaN becomes None, which JSON has."""
        return {
            "cte": _plain(self.cte),
            "low": _plain(self.low),
            "high": _plain(self.high),
            "n_tiles": self.n_tiles,
            "nan_fraction": _plain(self.nan_fraction),
        }


@dataclass(frozen=True, slots=True)
class ModelRank:
    """A model's place in the ranking.

    Parameters
    ----------
    name
        The model.
    rank
        From 1, the best; equal scores share a rank; None for an excluded model.
    flags
        What makes its score untrustworthy; a degenerate model ranks below every other one.
    excluded
        Why it was left out; None if it was not.
    foreground_fraction
        Median over tiles of the fraction of foreground voxels in the reference prediction.
    scores
        ``metric@perturbation`` → `Score`.
    note
        What else a user should know, such as voxels unlike those of the training.
    """

    name: str
    rank: int | None
    flags: tuple[str, ...] = ()
    excluded: str | None = None
    foreground_fraction: float = math.nan
    scores: Mapping[str, Score] = field(default_factory=dict)
    note: str = ""

    @property
    def degenerate(self) -> bool:
        """Whether it is consistent only because it predicts nothing or everything."""
        return NOTHING in self.flags or EVERYTHING in self.flags

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, an entry of ``models`` in ``ranking.json``."""
        return {
            "name": self.name,
            "rank": self.rank,
            "flags": list(self.flags),
            "excluded": self.excluded,
            "note": self.note,
            "foreground_fraction": _plain(self.foreground_fraction),
            "scores": {name: s.to_dict() for name, s in self.scores.items()},
        }


@dataclass(frozen=True, slots=True)
class Ranking:
    """Models in rank order, excluded ones last.

    Parameters
    ----------
    primary
        The score that ranks, ``metric@perturbation``.
    models
        The models.
    similarity
        How alike they predict; None unless a metric of the whole bank was asked for.
    combined
        Their combined ranks; None unless asked for.
    """

    primary: str
    models: tuple[ModelRank, ...]
    similarity: Similarity | None = None
    combined: Combined | None = None


def rank(dataset: xr.Dataset, *, seed: int | None = None, combine: bool | None = None) -> Ranking:
    """Rank models by their median tile consistency (CTE, arXiv 2503.00450, sec. 2).

    Parameters
    ----------
    dataset
        Tile scores, from `score` or `read_scores`; computed if lazy.
    seed
        Of the bootstrap; by default the experiment's.
    combine
        Whether to combine all scores too (`cte_dask.ranking.combination`); by default as the
        experiment says.

    Returns
    -------
    Ranking
        Degenerate models (see `ModelRank`) below all others. Models that were not scored on the
        same tiles are compared on those that they share; models listed in the attribute ``first``
        come first, in that order.
    """
    data = dataset.compute()
    seed = int(data.attrs.get("seed", 0)) if seed is None else seed
    primary = str(data.attrs["primary"])
    cell = cells(np.stack([data[axis].to_numpy() for axis in "zyx"], axis=1))
    alike = similarity_in(data)
    ranked = [_model(data.sel(model=name), primary, cell, seed) for name in data.model.to_numpy()]
    if alike is not None:
        ranked = [replace(m, note=_noted(m.note, alike.note(m.name))) for m in ranked]
    ranked = [replace(m, note=_noted(m.note, _partly(m.name, data))) for m in ranked]
    ranked = _ordered(ranked, data, primary)
    excluded = dict(data.attrs.get("excluded", {}))
    out = [ModelRank(name, None, excluded=why) for name, why in excluded.items()]
    combined = None
    if data.attrs.get("combine", False) if combine is None else combine:
        values, supported = evidence(data)
        degenerate = {m.name: m.degenerate for m in ranked}
        names = [str(n) for n in data.model.to_numpy()]
        flagged = np.array([degenerate[n] for n in names])
        combined = combine_scores(
            names, values, degenerate=flagged, cell=cell, supported=supported, seed=seed
        )
    return Ranking(primary, (*ranked, *out), alike, combined)


def with_intervals(ranking: Ranking, intervals: Mapping[str, tuple[float, float]]) -> Ranking:
    """Return a ranking with other intervals of the score that ranks, by name of the model."""

    def changed(model: ModelRank) -> ModelRank:
        if model.name not in intervals or ranking.primary not in model.scores:
            return model
        low, high = intervals[model.name]
        score = replace(model.scores[ranking.primary], low=low, high=high)
        return replace(model, scores={**model.scores, ranking.primary: score})

    return replace(ranking, models=tuple(changed(m) for m in ranking.models))


def _noted(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _ordered(ranked: list[ModelRank], data: xr.Dataset, primary: str) -> list[ModelRank]:
    """Return the models in order and with their ranks; equal scores of equal tiles share one."""
    name = ScoreName.parse(primary)
    selection = data.sel(perturbation=name.perturbation)
    requested = selection.status.to_numpy() != STATUS["absent"]
    order = [ranked[m] for m in placed(selection[name.metric].to_numpy(), requested)]
    first = list(data.attrs.get("first", ()))
    order.sort(key=lambda m: first.index(m.name) if m.name in first else len(first))
    order.sort(key=lambda m: m.degenerate)  # stable: the order within each kind stays
    number = dict(zip(data.model.to_numpy(), requested.sum(axis=1), strict=True))

    def place(m: ModelRank) -> tuple[bool, float, int]:
        return m.degenerate, _or(m.scores[primary].cte, -1.0), int(number[m.name])

    places = [place(m) for m in order]
    return [replace(m, rank=places.index(place(m)) + 1) for m in order]


def _partly(name: str, data: xr.Dataset) -> str:
    """Tell of a model that was not scored on every block that others were."""
    requested = (data.sel(model=name).status != STATUS["absent"]).any("perturbation").to_numpy()
    if requested.all():
        return ""
    blocks = data.block.to_numpy()
    number, total = len(np.unique(blocks[requested])), len(np.unique(blocks))
    return f"beaten: scored on {number} of {total} blocks, its CTE is of those"


def _model(data: xr.Dataset, primary: str, cell: NDArray[np.int64], seed: int) -> ModelRank:
    scores = {}
    for perturbation in data.perturbation.to_numpy():
        selection = data.sel(perturbation=perturbation)
        scored = selection.status.to_numpy() == STATUS["scored"]
        if not scored.any() and bool((selection.status == STATUS["unsupported"]).any()):
            continue
        for score in score_names(data.attrs["metrics"], [str(perturbation)]):
            values = selection[score.metric].to_numpy()[scored]
            scores[str(score)] = _score(values, cell[scored], seed)
    ranking = ScoreName.parse(primary)
    selection = data.sel(perturbation=ranking.perturbation)
    scored = selection.status.to_numpy() == STATUS["scored"]
    fraction = median((selection.n_reference / selection.n_voxels).to_numpy()[scored])
    nothing = scores[primary].nan_fraction
    if ranking.of_bank and scored.any():  # to differ from others is no NaN
        nothing = float((selection.n_reference.to_numpy()[scored] == 0).mean())
    flags = flag(scores[primary].n_tiles, nothing, fraction)
    if bool(np.isin(data.status, [STATUS["failed"], STATUS["non_finite_output"]]).any()):
        flags = (*flags, FAILED)
    name = str(data.model.item())
    note = str(data.attrs.get("notes", {}).get(name, ""))
    return ModelRank(name, None, flags, None, fraction, scores, note)


def _score(values: NDArray[np.float64], cell: NDArray[np.int64], seed: int) -> Score:
    valid = ~np.isnan(values)
    low, high = median_interval(values[valid], cell[valid], seed=seed)
    n = len(values)
    nan_fraction = 1 - valid.sum() / n if n else math.nan
    return Score(median(values), low, high, n, float(nan_fraction))


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


RANKING_SCHEMA = "cte-ranking/1"


def ranking_dict(
    experiment: Experiment, ranking: Ranking, scores: Scores, decision: Decision | None = None
) -> dict[str, Any]:
    """Return the content of ``ranking.json``; `decision` is what an anytime run came to."""
    from cte_dask.scoring.experiment import versions

    marks = scores.done()
    if decision is None:
        reached = bool((marks == DONE["complete"]).all())
    else:
        reached = decision.stopped != "interrupted" and not (marks == DONE["failures"]).any()
    complete = bool(reached) and not experiment.excluded
    answer = {} if decision is None else {**decision.to_dict(), "verdict": verdict(decision)}
    return {
        "schema": RANKING_SCHEMA,
        "primary": ranking.primary,
        "complete": complete,
        "blocks": {
            "total": len(marks),
            "done": int((marks == DONE["complete"]).sum()),
            "failed": int((marks == DONE["failures"]).sum()),
            **({} if decision is None else {"sampled": decision.blocks}),
        },
        **answer,
        **({"skipped": left_out} if (left_out := skipped(scores)) else {}),
        "target": experiment.volume.describe(),
        "seed": experiment.seed,
        "experiment": experiment.digest(),
        "models": [{**m.to_dict(), "candidate": experiment.way_of(m.name)} for m in ranking.models],
        **({"similarity": ranking.similarity.to_dict()} if ranking.similarity else {}),
        **({"combined": ranking.combined.to_dict()} if ranking.combined else {}),
        "versions": versions(),
    }
