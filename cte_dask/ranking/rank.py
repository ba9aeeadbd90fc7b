"""From tile consistencies to a ranking: medians, intervals, flags and order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.degenerate import (
    BLIND,
    DISTRUSTED,
    EVERYTHING,
    FAILED,
    FLOODS,
    NOTHING,
    UNSTEADY,
    flag,
    floods,
)
from cte_dask.consistency.score_names import ScoreName, score_names
from cte_dask.ranking.bootstrap import cells, median, median_interval, resample
from cte_dask.ranking.notes import ONE_REGION, noted, partly
from cte_dask.ranking.order import placed
from cte_dask.ranking.transfer import F1_ERROR, BankVerdict, Estimate, ModelVerdict, judge
from cte_dask.ranking.unscored import why_unscored
from cte_dask.results.score_table import ScoreTable
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

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
        95 % bootstrap interval of the median; NaN if fewer than two regions have a score.
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
    verdict
        What the bank says of it; None for an excluded model.
    first, beaten
        Fractions of the resamples of the target's regions in which it comes first of the models
        that are not degenerate, and in which the first of the ranking is ahead of it; NaN where
        that is not known, as of beaten models of an anytime run or where one region alone has a
        score.
    """

    name: str
    rank: int | None
    flags: tuple[str, ...] = ()
    excluded: str | None = None
    foreground_fraction: float = math.nan
    scores: Mapping[str, Score] = field(default_factory=dict)
    note: str = ""
    verdict: ModelVerdict | None = None
    first: float = math.nan
    beaten: float = math.nan

    @property
    def degenerate(self) -> bool:
        """Whether its consistency says nothing: it predicts nothing, everything, or at random."""
        return not DISTRUSTED.isdisjoint(self.flags)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, an entry of ``models`` in ``ranking.json``."""
        return {
            "name": self.name,
            "rank": self.rank,
            "flags": list(self.flags),
            "excluded": self.excluded,
            "note": self.note,
            "foreground_fraction": _plain(self.foreground_fraction),
            "first": _plain(self.first),
            "beaten": _plain(self.beaten),
            "scores": {name: s.to_dict() for name, s in self.scores.items()},
            **({} if self.verdict is None else self.verdict.to_dict()),
        }


@dataclass(frozen=True, slots=True)
class Ranking:
    """Models in rank order, excluded ones last.

    Parameters
    ----------
    primary
        What ranks: ``transfer``, ``cte`` (consistency over several perturbations), one score,
        ``metric@perturbation``; or, where tiles were labelled, ``labelled_f1`` or
        ``labelled_precision``.
    score
        The score that tiles show, ``metric@perturbation``; it ranks alone where it is `primary`.
    models
        The models.
    bank
        What they say of each other.
    """

    primary: str
    score: str
    models: tuple[ModelRank, ...]
    bank: BankVerdict

    @property
    def warning(self) -> str:
        """Why no model can be trusted here; empty if one can, or nobody knows."""
        return self.bank.warning

    @property
    def as_good(self) -> tuple[str, ...]:
        """Names of models that estimated F1 does not tell from the first one, in rank order."""
        judged = [(m.name, m.verdict) for m in self.models if m.verdict and not m.degenerate]
        if self.primary != "transfer" or not judged:
            return ()
        least = judged[0][1].estimated_f1.value - F1_ERROR
        return tuple(name for name, v in judged[1:] if v.estimated_f1.value >= least)

    def value(self, model: ModelRank) -> Estimate:
        """Return the number that ranks a model, with its interval.

        Parameters
        ----------
        model
            One of `models` that is not excluded.
        """
        if self.primary == self.score:
            score = model.scores[self.score]
            return Estimate(score.cte, score.low, score.high)
        assert model.verdict is not None
        return model.verdict.transfer


def rank(
    dataset: xr.Dataset | ScoreTable, *, seed: int | None = None, rule: str | None = None
) -> Ranking:
    """Rank models on their tile scores.

    Parameters
    ----------
    dataset
        Tile scores, from `score` or `read_scores`, computed if lazy; or the same as a table.
    seed
        Seed of the bootstrap; by default the experiment's.
    rule
        ``transfer`` (`cte_dask.ranking.transfer`), or ``consistency``: by the median tile
        consistency (CTE, arXiv 2503.00450, sec. 2) of the first metric under the first
        perturbation; by default as the experiment says. Where tiles were labelled, what was
        measured ranks (`cte_dask.ranking.correction`), unless a rule is given here.

    Returns
    -------
    Ranking
        Degenerate models (see `ModelRank`) below all others. Models that were not scored on the
        same tiles are compared on those that they share; models listed in the attribute ``first``
        come first, in that order.
    """
    data = ScoreTable.of(dataset)
    seed = int(data.attrs.get("seed", 0)) if seed is None else seed
    score = str(data.attrs["primary"])
    cell = cells(data.starts)
    ranked = [_model(data, model, score, cell, seed) for model in range(len(data.models))]
    bank = judge(data, degenerate=np.array([m.degenerate for m in ranked]), cell=cell, seed=seed)
    notes = {name: partly(model, data) for model, name in enumerate(data.models)}
    ranked = [
        replace(
            _judged(m, bank.models[m.name]),
            note=noted(m.note, notes[m.name], _region(m, score)),
        )
        for m in ranked
    ]
    if rule is None:
        rule = "labels" if bank.labelled else str(data.attrs.get("rule", "consistency"))
    primary = score if rule == "consistency" else bank.by
    resampled = bank.resampled if primary == bank.by else _resampled(data, cell, seed)
    pairs = zip(data.models, resampled, strict=True)
    # models that were dropped on the way have seen other regions
    numbers = {name: row for name, row in pairs if not notes[name]}
    reasons = {name: why_unscored(data, model) for model, name in enumerate(data.models)}
    ranked = _ordered(ranked, data, primary, bank.tiles[bank.by])
    scored = [m for m in ranked if not reasons[m.name]]
    ranked = _with_certainty(_numbered(scored, data, primary), numbers)
    excluded = {**{n: why for n, why in reasons.items() if why}, **data.attrs.get("excluded", {})}
    out = [ModelRank(name, None, excluded=why) for name, why in excluded.items()]
    return Ranking(primary, score, (*ranked, *out), bank)


def with_intervals(ranking: Ranking, intervals: Mapping[str, tuple[float, float]]) -> Ranking:
    """Return a ranking with other intervals of what ranks, by name of the model."""

    def changed(model: ModelRank) -> ModelRank:
        if model.excluded is not None or model.name not in intervals:
            return model
        low, high = intervals[model.name]
        notes = [note for note in model.note.split("; ") if note != ONE_REGION]
        model = replace(model, note=noted(*notes))
        if ranking.primary == ranking.score:
            score = replace(model.scores[ranking.score], low=low, high=high)
            return replace(model, scores={**model.scores, ranking.score: score})
        assert model.verdict is not None
        transfer = replace(model.verdict.transfer, low=low, high=high)
        return replace(model, verdict=replace(model.verdict, transfer=transfer))

    return replace(ranking, models=tuple(changed(m) for m in ranking.models))


def _judged(model: ModelRank, verdict: ModelVerdict) -> ModelRank:
    """Add what the bank says of a model, and the flag that follows from it."""
    flood = floods(model.foreground_fraction, verdict.estimated_f1.value) and not model.degenerate
    return replace(model, verdict=verdict, flags=(*((FLOODS,) if flood else ()), *model.flags))


def _region(model: ModelRank, score: str) -> str:
    """Say why a model that has a score has no interval."""
    own = model.scores[score]
    return ONE_REGION if math.isnan(own.low) and not math.isnan(own.cte) else ""


def _ordered(
    ranked: list[ModelRank], data: ScoreTable, primary: str, tiles: NDArray[np.float64]
) -> list[ModelRank]:
    """Return the models in order."""
    values, status = _primary(data)
    requested = status != STATUS["absent"]
    values = values if primary == str(data.attrs["primary"]) else tiles
    numbers = np.array([_by(m, primary) for m in ranked])
    order = [ranked[m] for m in placed(values, requested, scores=numbers)]
    first = list(data.attrs.get("first", ()))
    order.sort(key=lambda m: first.index(m.name) if m.name in first else len(first))
    order.sort(key=lambda m: m.degenerate)  # stable: the order within each kind stays

    return order


def _primary(data: ScoreTable) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return the score that tiles show, and how each went, (model, tile)."""
    score = ScoreName.parse(str(data.attrs["primary"]))
    place = data.perturbations.index(score.perturbation)
    return data[score.metric][:, place], data["status"][:, place]


def _numbered(order: list[ModelRank], data: ScoreTable, primary: str) -> list[ModelRank]:
    """Return models with their ranks; equal scores of as many tiles share one."""
    requested = (_primary(data)[1] != STATUS["absent"]).sum(axis=1)
    number = dict(zip(data.models, requested.tolist(), strict=True))

    def place(m: ModelRank) -> tuple[bool, float, int]:
        return m.degenerate, _by(m, primary), number[m.name]

    places = [place(m) for m in order]
    return [replace(m, rank=places.index(place(m)) + 1) for m in order]


def _resampled(data: ScoreTable, cell: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return the medians of the score that ranks in resamples of the regions, (model, resample)."""
    values, status = _primary(data)
    draws = resample(cell, seed=seed)
    values = np.where(status == STATUS["scored"], values, np.nan)
    return np.stack([draws.medians(row) for row in values])


def _with_certainty(
    ranked: list[ModelRank], numbers: Mapping[str, NDArray[np.float64]]
) -> list[ModelRank]:
    """Add how often each model comes first, and how often the first of the ranking is ahead of it.

    All models share the regions drawn, so a region that is hard for all of them changes no order;
    intervals of single models overlap even then. Models without numbers are left out.
    """
    usable = [m for m in ranked if not m.degenerate and m.name in numbers]
    if not usable:
        return ranked
    resampled = np.stack([numbers[m.name] for m in usable])
    table = np.nan_to_num(resampled, nan=-1.0)
    ahead = table == table.max(axis=0)
    shares = (ahead / ahead.sum(axis=0)).mean(axis=1)
    behind = ((np.sign(table[:1] - table) + 1) / 2).mean(axis=1)  # equal counts half
    behind[0] = math.nan
    has_regions = (~np.isnan(resampled)).sum(axis=1) > 0
    shares[~has_regions] = math.nan
    behind[~has_regions] = math.nan
    if not has_regions[0]:
        behind[:] = math.nan
    known = {m.name: (float(f), float(b)) for m, f, b in zip(usable, shares, behind, strict=True)}
    return [
        replace(m, first=known[m.name][0], beaten=known[m.name][1]) if m.name in known else m
        for m in ranked
    ]


def _by(model: ModelRank, primary: str) -> float:
    """Return what ranks a model; -1 if it has no such number."""
    if primary in model.scores:
        return _or(model.scores[primary].cte, -1.0)
    assert model.verdict is not None
    return _or(model.verdict.transfer.value, -1.0)


def _model(
    data: ScoreTable, model: int, primary: str, cell: NDArray[np.int64], seed: int
) -> ModelRank:
    scores, status = {}, data["status"][model]
    for place, perturbation in enumerate(data.perturbations):
        scored = status[place] == STATUS["scored"]
        if not scored.any() and (status[place] == STATUS["unsupported"]).any():
            continue
        for score in score_names(data.attrs["metrics"], [perturbation]):
            values = data[score.metric][model, place, scored]
            scores[str(score)] = _score(values, cell[scored], seed)
    place = data.perturbations.index(ScoreName.parse(primary).perturbation)
    scored = status[place] == STATUS["scored"]
    reference, voxels = (data[n][model, place, scored] for n in ("n_reference", "n_voxels"))
    fraction = median(reference / voxels)
    flags = flag(scores[primary].n_tiles, scores[primary].nan_fraction, fraction)
    if np.isin(status, [STATUS["failed"], STATUS["non_finite_output"]]).any():
        flags = (*flags, FAILED)
    name = data.models[model]
    for key, sign in (("blind", BLIND), ("unsteady", UNSTEADY)):
        if name in data.attrs.get(key, ()):
            flags = (sign, *flags)
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
