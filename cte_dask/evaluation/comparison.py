"""Comparing the scores of a run with measured performance: medians, correlations, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.score_names import score_names
from cte_dask.evaluation.rank_correlation import kendall_rows, rank_correlation
from cte_dask.evaluation.result import (
    COMPARATORS,
    MEASURES,
    PERFORMANCES,
    Evaluation,
    ModelEvaluation,
    ScoreCorrelation,
)
from cte_dask.ranking.bootstrap import RESAMPLES, interval, median, resample

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.ranking.rank import ModelRank, Ranking
    from cte_dask.ranking.transfer import Estimate, ModelVerdict

__all__ = ["TileMeasures", "evaluation_of"]


@dataclass(frozen=True, slots=True, eq=False)
class TileMeasures:
    """Measures of the tiles of a run against labels.

    Parameters
    ----------
    values
        float64 (model, `MEASURES`, tile), NaN where nothing could be measured.
    labelled
        Voxels of each tile that the labels call foreground, (tile,).
    units
        Number of each tile's bootstrap unit, (tile,): tiles of one unit are drawn together.
    ccfv
        CCFV of each model, NaN where it is not available; empty if it was not asked for.
    """

    values: NDArray[np.float64]
    labelled: NDArray[np.int64]
    units: NDArray[np.int64]
    ccfv: Mapping[str, float] = field(default_factory=dict)


def evaluation_of(
    dataset: xr.Dataset,
    ranking: Ranking,
    measured: TileMeasures,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    causes: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Compare the scores of a run with measured performance.

    Parameters
    ----------
    dataset
        Tile scores, from `cte_dask.results.dataset.read_scores`, in the order of the measures.
    ranking
        From `cte_dask.ranking.rank.rank`.
    measured
        Measures of the same tiles.
    seed, resamples
        Of the bootstrap; the seed also of the permutation p-values.
    causes
        Why models could not be evaluated, by name.
    left_out
        Why models are left out of the comparison though they were evaluated, by name.
    notes, about
        See `Evaluation`.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If no model is left to compare.
    """
    causes, left_out = dict(causes or {}), dict(left_out or {})
    numbers = _Numbers(
        dataset,
        ranking,
        measured,
        apart=set(causes) | set(left_out),
        seed=seed,
        resamples=resamples,
    )
    if not numbers.compared:
        why = "; ".join(dict.fromkeys((*causes.values(), *left_out.values()))) or "none is ranked"
        raise ValueError(f"no model is left to compare: {why}")
    scores = (*numbers.scores, *(("ccfv",) if measured.ccfv else ()))
    return Evaluation(
        primary=ranking.primary,
        models=tuple(
            numbers.model(m, causes.get(m.name, ""), left_out.get(m.name, ""))
            for m in numbers.ranked
        ),
        score_correlations=tuple(
            numbers.score_correlation(s, p) for s in scores for p in numbers.performances
        ),
        n_tiles=dataset.sizes["tile"],
        n_labelled=int((measured.labelled > 0).sum()),
        n_units=numbers.drawn.counts.shape[1],
        seed=seed,
        notes=tuple(notes),
        about=dict(about or {}),
        tiles=_columns(dataset, measured),
    )


BANK_SCORES: Mapping[str, Callable[[ModelVerdict], Estimate]] = {
    "cte": lambda verdict: verdict.consistency,
    "estimated_f1": lambda verdict: verdict.estimated_f1,
    "transfer": lambda verdict: verdict.transfer,
}
"""What the bank says of a model, beside the scores of its own tiles."""


class _Numbers:
    """Tile values of a run by score and by performance; medians and correlations of them."""

    def __init__(
        self,
        dataset: xr.Dataset,
        ranking: Ranking,
        measured: TileMeasures,
        *,
        apart: set[str],
        seed: int,
        resamples: int,
    ) -> None:
        self.measured, self.seed = measured, seed
        self.names = [str(n) for n in dataset.model.to_numpy()]
        self.ranked = [m for m in ranking.models if m.rank is not None]
        self.compared = [m for m in self.ranked if m.name not in apart]
        self.scores = {**ranking.bank.tiles, **_tile_scores(dataset, measured)}
        self.performances = _performances(measured)
        self.common = {name: self._common(values) for name, values in self.scores.items()}
        self.drawn = resample(measured.units, seed=seed, resamples=resamples)
        rows = [self._row(m) for m in self.compared]
        # Both sides use one set of draws, so a resample is one choice of tiles for score and
        # performance alike.
        self.medians = {
            name: np.array([self.drawn.medians(values[row]) for row in rows])
            for name, values in {**self.scores, **self.performances}.items()
        }

    def _row(self, model: ModelRank) -> int:
        return self.names.index(model.name)

    def _common(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return the tiles that all compared, unflagged models with a score have a number for."""
        rows = [self._row(m) for m in self.compared if not m.degenerate]
        # A model without a single number would leave no tile in common: it does not count here.
        defined = ~np.isnan(values[[r for r in rows if not np.isnan(values[r]).all()]])
        return np.asarray(defined.all(axis=0) & (len(defined) > 0))

    def score(self, model: ModelRank, name: str) -> float:
        """Return a model's median over its own tiles, or its CCFV."""
        if name == "ccfv":
            return self.measured.ccfv.get(model.name, math.nan)
        if name in BANK_SCORES and model.verdict is not None:  # "transfer" is of two medians
            return BANK_SCORES[name](model.verdict).value
        return median(self.scores[name][self._row(model)])

    def performance(self, model: ModelRank, name: str) -> float:
        """Return a model's median over the labelled tiles."""
        return median(self.performances[name][self._row(model)])

    def shared(self, model: ModelRank, name: str) -> float:
        """Return a model's median over the common tiles."""
        return median(self.scores[name][self._row(model)][self.common[name]])

    def model(self, model: ModelRank, cause: str, left_out: str) -> ModelEvaluation:
        """Return one model against the labels."""
        names = (*self.scores, *(("ccfv",) if self.measured.ccfv else ()))
        return ModelEvaluation(
            model.name,
            model.rank,
            model.flags,
            {name: self.performance(model, name) for name in self.performances},
            {name: self.score(model, name) for name in names},
            {name: self.shared(model, name) for name in self.scores},
            int((~np.isnan(self.performances["f1"][self._row(model)])).sum()),
            cause,
            left_out,
        )

    def interval(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
        """Return the 95 % interval of Kendall's τ-b from resampled medians (model, resample)."""
        if self.drawn.counts.shape[1] < 2:  # drawing one unit gives the same medians every time
            return math.nan, math.nan
        return interval(kendall_rows(x.T, y.T))

    def score_correlation(self, score: str, performance: str) -> ScoreCorrelation:
        """Return the correlation of a score with a performance over the compared models."""
        x = np.array([self.score(m, score) for m in self.compared])
        y = np.array([self.performance(m, performance) for m in self.compared])
        degenerate = np.array([m.degenerate for m in self.compared], bool)
        low = high = math.nan
        shared = None
        if score in self.scores:
            low, high = self.interval(self.medians[score], self.medians[performance])
            z = [self.shared(m, score) for m in self.compared]
            shared = rank_correlation(z, y, seed=self.seed)
        return ScoreCorrelation(
            score,
            performance,
            rank_correlation(x, y, seed=self.seed),
            low,
            high,
            rank_correlation(_flagged_last(x, degenerate), y, seed=self.seed),
            shared,
            int(self.common[score].sum()) if score in self.common else None,
        )


def _columns(dataset: xr.Dataset, measured: TileMeasures) -> dict[str, NDArray[Any]]:
    """Return the measures as columns of a table, a row a model and tile."""
    models, tiles = dataset.sizes["model"], dataset.sizes["tile"]
    places = {name: dataset[name].to_numpy() for name in ("tile", *"zyx")}
    return {
        "model": np.repeat(dataset.model.to_numpy(), tiles),
        **{name: np.tile(column, models) for name, column in places.items()},
        "labelled": np.tile(measured.labelled, models),
        **{name: measured.values[:, i].ravel() for i, name in enumerate(MEASURES)},
    }


def _tile_scores(dataset: xr.Dataset, measured: TileMeasures) -> dict[str, Any]:
    """Return every score as (model, tile); higher is better."""
    perturbations = map(str, dataset.perturbation.to_numpy())
    scores = {
        str(name): dataset[name.metric].sel(perturbation=name.perturbation).to_numpy()
        for name in score_names(dataset.attrs["metrics"], perturbations)
    }
    for name, sign in COMPARATORS.items():
        scores[name] = sign * measured.values[:, MEASURES.index(name)]
    return scores


def _performances(measured: TileMeasures) -> dict[str, Any]:
    """Return F1, and mAP of runs with instances, as (model, tile); NaN in tiles without labels."""
    performances = {}
    for name in PERFORMANCES:
        values = measured.values[:, MEASURES.index(name)]
        if name == "f1" or not np.isnan(values).all():
            performances[name] = np.where(measured.labelled > 0, values, math.nan)
    return performances


def _flagged_last(x: NDArray[np.float64], degenerate: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return scores with those of degenerate models below all others, in their own order."""
    defined = x[~np.isnan(x)]
    span = float(np.ptp(defined)) + 1.0 if len(defined) else 1.0
    # One more than the range of all scores puts the best of them below the worst of the others.
    return x - span * degenerate
