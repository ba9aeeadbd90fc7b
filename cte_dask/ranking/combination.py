"""Combined rank: what several families of evidence say together.

Noise, dropout, rotations, mirrors, magnifications and the agreement between models fail in
different ways. The rule, fixed beforehand:

1. A **family** is a kind of perturbation (``dropout``, ``gaussian``, ``rotate`` …), or the
   agreement between the models (``agreement`` and ``consensus`` together).
2. Under every score (``metric@perturbation``) a model has a **rank percentile** among the models
   ranked: the fraction of the others that it beats, ties half; a model without a value is below all
   that have one.
3. A family's percentile is the mean over its scores, so that a family counts once, with however
   many strengths, modes and metrics it was run. Only scores that every model supports count.
4. The combined score is the mean over the families, in [0, 1]; equal ones share a rank.
5. Models flagged for predicting nothing or everything are compared among themselves, by the same
   rule, and rank below every other.

The interval is that of a bootstrap over regions of the target: cells of tiles are drawn, the same
for every model and score, and the whole rule is applied to the medians of each resample.

Where families disagree no ranking should be trusted. Kendall's W of the families on the models'
percentiles has the mean rank correlation (m W - 1) / (m - 1) of two of the m families (Kendall &
Babington Smith 1939, doi:10.1214/aoms/1177732186); below `LOW_CORRELATION` a warning is given.

`evidence` collects what is combined: the tile values of every score, and which models support it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.consistency.score_names import families_of, score_names
from cte_dask.ranking.bootstrap import RESAMPLES, TAILS, resample
from cte_dask.ranking.concordance import kendall_w
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["Combined", "CombinedModel", "combine_scores", "evidence", "percentiles"]

Floats = NDArray[np.float64]

LOW_CORRELATION = 0.3
TIE = 1e-9
"""Combined scores this close share a rank: sums of percentiles are rounded."""


@dataclass(frozen=True, slots=True)
class CombinedModel:
    """One model under the combined rule.

    Parameters
    ----------
    rank
        From 1, the best; equal scores share a rank.
    score
        Mean of the families' percentiles, in [0, 1].
    low, high
        95 % bootstrap interval of the score.
    rank_low, rank_high
        95 % bootstrap interval of the rank.
    families
        The model's percentile in each family.
    """

    rank: int
    score: float
    low: float
    high: float
    rank_low: int
    rank_high: int
    families: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Combined:
    """The combined ranking.

    Parameters
    ----------
    families
        Scores that each family is made of.
    left_out
        Scores that not every model supports.
    kendall_w
        Of the families on the models not flagged; NaN for fewer than two of either.
    correlation
        Mean rank correlation of two families that follows from it.
    models
        Name of each model and what the rule gives it, in rank order.
    """

    families: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    kendall_w: float
    correlation: float
    models: Mapping[str, CombinedModel]

    @property
    def warning(self) -> str:
        """What a user must know before trusting the ranking; empty if nothing."""
        if len(self.families) < 2:
            return "only one family was run that every model supports: nothing is combined"
        if not self.correlation >= LOW_CORRELATION:  # NaN too
            concordance = "–" if math.isnan(self.kendall_w) else f"{self.kendall_w:.2f}"
            return (
                f"the families disagree on the order of the models (Kendall's W {concordance}): "
                "no ranking of this bank on this target should be trusted"
            )
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, the entry ``combined`` of ``ranking.json``."""
        return {
            "rule": "mean of family rank percentiles",
            "families": {name: list(scores) for name, scores in self.families.items()},
            "left_out": list(self.left_out),
            "kendall_w": _plain(self.kendall_w),
            "correlation": _plain(self.correlation),
            "warning": self.warning or None,
            "models": {name: asdict(model) for name, model in self.models.items()},
        }


def percentiles(scores: Floats) -> Floats:
    """Return the fraction of the other models that each one beats, ties half.

    Parameters
    ----------
    scores
        Higher is better, (..., model); NaN is below all numbers, and NaN ties with NaN.

    Returns
    -------
    ndarray of float64
        Of the same shape, in [0, 1]; 1 for a model that has no other.

    Examples
    --------
    >>> percentiles(np.array([0.9, 0.5, 0.5, np.nan])).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    values = np.where(np.isnan(scores), -math.inf, scores)
    # every model against every other; a model ties with itself, which is taken off
    mine, other = values[..., :, None], values[..., None, :]
    beaten = (mine > other).sum(axis=-1) + 0.5 * ((mine == other).sum(axis=-1) - 1)
    models = scores.shape[-1]
    return np.asarray(beaten / (models - 1) if models > 1 else np.ones(scores.shape))


def combine_scores(
    names: Sequence[str],
    values: Mapping[str, Floats],
    *,
    degenerate: NDArray[np.bool_],
    cell: NDArray[np.int64],
    supported: Mapping[str, NDArray[np.bool_]] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Combined:
    """Combine the scores of some models.

    Parameters
    ----------
    names
        The models.
    values
        Score (``metric@perturbation``) to tile values (model, tile), NaN where a tile says nothing.
    degenerate
        Which models are flagged for predicting nothing or everything.
    cell
        Cell of each tile, drawn as a whole (`cte_dask.ranking.bootstrap.cells`).
    supported
        For each score, which models support it; all by default.
    seed, resamples
        Of the bootstrap.

    Returns
    -------
    Combined

    Raises
    ------
    ValueError
        If there is no score that every model supports.
    """
    supported = supported or {}
    used = [s for s in values if s not in supported or supported[s].all()]
    if not used:
        raise ValueError(
            f"no score of {list(values)} is supported by every model: add an input perturbation "
            "such as --perturb rotate, or --metric agreement"
        )
    families = families_of(used)
    draws = resample(cell, seed=seed, resamples=resamples)
    as_they_are = np.ones_like(draws.counts[:1])  # row 0: every cell once
    draws = replace(draws, counts=np.concatenate([as_they_are, draws.counts]))
    medians = {s: np.stack([draws.medians(row) for row in values[s]], axis=1) for s in used}
    table = np.stack([_family(scores, medians, degenerate) for scores in families.values()])
    combined = table.mean(axis=0)
    ranks = _ranks(combined, degenerate)
    w = kendall_w(table[:, 0, ~degenerate])
    m = len(families)
    return Combined(
        families=families,
        left_out=tuple(s for s in values if s not in used),
        kendall_w=w,
        correlation=(m * w - 1) / (m - 1) if m > 1 else math.nan,
        models=_models(names, table[:, 0], combined, ranks, tuple(families)),
    )


def _family(
    scores: Sequence[str], medians: Mapping[str, Floats], degenerate: NDArray[np.bool_]
) -> Floats:
    """Return a family's percentiles (resample, model), flagged models among themselves."""
    table = np.empty(medians[scores[0]].shape)
    for group in (degenerate, ~degenerate):
        within = [percentiles(medians[s][:, group]) for s in scores]
        table[:, group] = np.mean(within, axis=0)
    return table


def _ranks(combined: Floats, degenerate: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return ranks (resample, model) from 1, equal ones shared, flagged models last."""
    keyed = combined - 2.0 * degenerate  # below all others, whose scores are at least 0
    better = keyed[..., None, :] > keyed[..., :, None] + TIE
    return np.asarray(1 + better.sum(axis=-1), np.int64)


def _models(
    names: Sequence[str],
    table: Floats,
    combined: Floats,
    ranks: NDArray[np.int64],
    families: Sequence[str],
) -> dict[str, CombinedModel]:
    low, high = np.quantile(combined[1:], TAILS, axis=0)
    first = np.quantile(ranks[1:], TAILS[0], axis=0, method="lower")
    last = np.quantile(ranks[1:], TAILS[1], axis=0, method="higher")
    models = {}
    for i in np.argsort(ranks[0], kind="stable"):
        own = {family: float(table[k, i]) for k, family in enumerate(families)}
        interval = float(low[i]), float(high[i]), int(first[i]), int(last[i])
        models[names[i]] = CombinedModel(int(ranks[0, i]), float(combined[0, i]), *interval, own)
    return models


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def evidence(
    data: xr.Dataset,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.bool_]]]:
    """Return the tile values of every score, and which models support it.

    Parameters
    ----------
    data
        Tile scores, computed.

    Returns
    -------
    tuple of dict
        Score (``metric@perturbation``) to its values (model, tile), NaN where a tile was not
        scored; and to the models (model,) that have the perturbation.
    """
    values, supported = {}, {}
    for perturbation in map(str, data.perturbation.to_numpy()):
        selection = data.sel(perturbation=perturbation)
        status = selection.status.to_numpy()
        scored = status == STATUS["scored"]
        able = scored.any(axis=1) | ~(status == STATUS["unsupported"]).any(axis=1)
        for name in score_names(data.attrs["metrics"], [perturbation]):
            values[str(name)] = np.where(scored, selection[name.metric].to_numpy(), np.nan)
            supported[str(name)] = able
    return values, supported
