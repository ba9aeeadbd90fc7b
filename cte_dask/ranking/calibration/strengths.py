"""The curve of a calibration: what each strength of a grid told, and which one is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.consistency.degenerate import FAILED
from cte_dask.consistency.score_names import ScoreName
from cte_dask.ranking.bootstrap import cells
from cte_dask.ranking.concordance import Spread, choose, kendall_w, spread
from cte_dask.ranking.rank import ModelRank, rank
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.perturb import Perturbation
    from cte_dask.scoring.experiment import Experiment

__all__ = ["Calibration", "Strength", "calibrated"]


@dataclass(frozen=True, slots=True)
class Strength:
    """One strength of the grid and what the pilot told of it.

    Parameters
    ----------
    perturbation
        Its name, such as ``"dropout:0.2"``.
    value
        The strength itself.
    agreement
        Kendall's W of the tiles on the order of the models; NaN if there are fewer than two tiles.
    spread
        Spread between the models and within each, on the same tiles.
    n_tiles
        Tiles on which every model compared has a consistency; `agreement` and `spread` are theirs.
    eligible
        Whether the spread between models exceeds the spread within (`Spread.ratio` above 1).
    models
        Every usable model under this strength, in rank order, each over all its tiles.
    """

    perturbation: str
    value: float
    agreement: float
    spread: Spread
    n_tiles: int
    eligible: bool
    models: tuple[ModelRank, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The whole curve and the strength chosen.

    Parameters
    ----------
    kind, metric
        What was perturbed and how consistency was measured.
    strengths
        The curve, in the order of the grid.
    index
        Place of the chosen strength in `strengths`.
    fallback
        Whether no strength was eligible, so that agreement alone chose.
    compared
        Models that agreement and spread are over.
    degenerate
        Models left out of them for predicting nothing or everything, with their flags.
    excluded
        Models that could not be used, with the reason.
    n_pilot, n_grid
        Tiles of the pilot and of the whole target.
    experiment
        The pilot's experiment: seed, tile, models and target.
    """

    kind: str
    metric: str
    strengths: tuple[Strength, ...]
    index: int
    fallback: bool
    compared: tuple[str, ...]
    degenerate: Mapping[str, tuple[str, ...]]
    excluded: Mapping[str, str]
    n_pilot: int
    n_grid: int
    experiment: Experiment

    @property
    def chosen(self) -> Strength:
        """The strength chosen."""
        return self.strengths[self.index]

    @property
    def complete(self) -> bool:
        """Whether every model of the bank could be used and none failed on a tile."""
        failed = any(FAILED in m.flags for s in self.strengths for m in s.models)
        return not self.excluded and not failed


def calibrated(experiment: Experiment, data: xr.Dataset) -> Calibration:
    """Choose a strength from tile scores.

    Parameters
    ----------
    experiment
        The pilot's experiment; its perturbations are the grid.
    data
        Tile scores of the pilot (`cte_dask.results.dataset.dataset_of`), computed.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If fewer than two models or tiles can be compared.
    """
    names = [ScoreName(experiment.metrics[0], p.name) for p in experiment.perturbations]
    ranked = [_ranked(data, name, seed=experiment.seed) for name in names]
    degenerate = {m.name: m.flags for models in ranked for m in models if m.degenerate}
    compared = tuple(str(n) for n in data.model.to_numpy() if n not in degenerate)
    if len(compared) < 2:
        raise ValueError(
            f"at least two models must segment something to be compared, found {list(compared)}; "
            f"left out are {sorted(degenerate)}, which predict nothing or everything"
        )
    metric, models = experiment.metrics[0], list(compared)
    curve = [
        _strength(
            data.sel(perturbation=p.name, model=models),
            p,
            ranks,
            metric=metric,
            seed=experiment.seed,
        )
        for p, ranks in zip(experiment.perturbations, ranked, strict=True)
    ]
    if all(np.isnan(s.agreement) for s in curve):
        raise ValueError(
            f"the tiles give no order of the models: on {max(s.n_tiles for s in curve)} tiles all "
            f"{len(compared)} models have a consistency (at least 2 are needed, and some "
            "difference): use more --pilot-tiles, other strengths, or a --roi or --mask where "
            "there is structure"
        )
    choice = choose([s.agreement for s in curve], [s.spread.ratio for s in curve])
    return Calibration(
        kind=experiment.perturbations[0].kind,
        metric=metric,
        strengths=tuple(
            replace(s, eligible=e) for s, e in zip(curve, choice.eligible, strict=True)
        ),
        index=choice.index,
        fallback=choice.fallback,
        compared=compared,
        degenerate=degenerate,
        excluded=experiment.excluded,
        n_pilot=data.sizes["tile"],
        n_grid=len(experiment.grid),
        experiment=experiment,
    )


def _ranked(data: xr.Dataset, name: ScoreName, *, seed: int) -> tuple[ModelRank, ...]:
    scores = data.sel(perturbation=[name.perturbation])
    scores.attrs |= {"primary": str(name)}
    return rank(scores, seed=seed).models


def _strength(
    scores: xr.Dataset,
    perturbation: Perturbation,
    models: tuple[ModelRank, ...],
    *,
    metric: str,
    seed: int,
) -> Strength:
    """Return what a strength comes to, from its scores of the models that are compared."""
    table, cell = _complete(scores, metric)
    return Strength(
        perturbation=perturbation.name,
        value=perturbation.strength,
        agreement=kendall_w(table),
        spread=spread(table, cell, seed=seed),
        n_tiles=len(table),
        eligible=False,
        models=models,
    )


def _complete(data: xr.Dataset, metric: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the table (tile, model) of the tiles that all models score, and the tiles' cells."""
    scored = data.status.to_numpy() == STATUS["scored"]
    table = np.where(scored, data[metric].to_numpy(), np.nan).T
    complete = ~np.isnan(table).any(axis=1)
    starts = np.stack([data[axis].to_numpy() for axis in "zyx"], axis=1)[complete]
    return table[complete], cells(starts)
