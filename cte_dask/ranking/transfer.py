"""Transfer score: how well each model of a bank will do, by what all of them say of each other.

A model that changes its mind under a perturbation is not to be trusted; one that does not may still
be wrong in the same way each time. What the *other* models see tells the two apart. The rule, fixed
before it was evaluated (docs/evidence.md):

1. The **consistency** of a model on a tile is the mean over the perturbations run, those that every
   model of the bank supports; its CTE is the median over tiles (arXiv 2503.00450, eq. 3, with
   different perturbations as the draws).
2. From `WITNESSES` usable models on, copies counted once, the **transfer score** is estimated F1 ×
   CTE: the F1 of a tile is the overlap expected with the truth that the others tell
   (`cte_dask.ranking.latent_truth`), a model's is the median over tiles.
3. Where instances are compared, votes on voxels do not tell whether touching objects are apart. The
   witness is then the average precision of a model's objects against those of each other model, the
   mean weighted by the fourth power of the others' CTE, on a typical tile; times its own CTE.
4. With fewer models, CTE alone ranks.
5. Where somebody labelled a few tiles, the witnesses are not needed: estimated F1 (of instances the
   precision), corrected by what was measured there (`cte_dask.ranking.correction`), ranks alone.
6. Models that predict nothing or everything rank below all others, and have no say.

When the best estimated F1 is below `TRUSTED_F1`, or the models tell no certain truth
(`TRUSTED_CERTAINTY`), no model of the bank should be trusted here, and the answer says so first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cte_dask.consistency.model_pairs import pair_overlaps, pair_table
from cte_dask.consistency.score_names import ScoreName
from cte_dask.ranking.ballot import ballot_of
from cte_dask.ranking.bootstrap import Sampled, interval, median, resample
from cte_dask.ranking.correction import LABELLED, Truth, labelled_score
from cte_dask.ranking.latent_truth import fit_truth
from cte_dask.results.block_codec import votes_in
from cte_dask.scoring.block_scores import mean_of_perturbations
from cte_dask.scoring.defaults import WITNESSES

if TYPE_CHECKING:
    from cte_dask.ranking.bootstrap import Resamples
    from cte_dask.results.score_table import ScoreTable

__all__ = [
    "F1_ERROR",
    "FEWEST",
    "TRUSTED_CERTAINTY",
    "TRUSTED_F1",
    "WEIGHT_POWER",
    "BankVerdict",
    "Estimate",
    "ModelVerdict",
    "judge",
    "mean_over_others",
    "tile_consistency",
]

Floats = npt.NDArray[np.float64]

TRUSTED_F1 = 0.6
"""Between the 0.5 below which a model is of no use and the 0.7 from which it is."""
F1_ERROR = 0.05
"""Estimates come so near to the truth where the models see what is meant; where all share an error
they come nowhere near it (docs/evidence.md). Models closer than this are not told apart."""
TRUSTED_CERTAINTY = 0.7
"""F1 expected of the consensus itself, below which there is no truth to be judged by."""
FEWEST = 3
"""Usable models that estimated F1 takes: left out one, two must tell the truth."""
WEIGHT_POWER = 4
"""Of the CTE of a model as a witness of others' objects."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval: of a bootstrap over regions of the target.

    Parameters
    ----------
    value
        NaN if nothing is known.
    low, high
        Ends of the interval.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, sampled: Sampled) -> Estimate:
        """Return a number with the interval of its resamples.

        Parameters
        ----------
        sampled
            The number.
        """
        return cls(sampled.value, *interval(sampled.resampled))

    def to_dict(self) -> dict[str, float | None]:
        """Return plain data; NaN becomes None, which JSON has."""
        return {name: _plain(getattr(self, name)) for name in ("value", "low", "high")}


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What a bank says of one of its models.

    Parameters
    ----------
    consistency
        CTE over all perturbations that every model supports.
    estimated_f1
        F1 expected against the truth that the others tell, corrected where tiles were labelled.
    sensitivity, false_positive_rate
        Against the truth that all tell; NaN where it is not known.
    precision
        Average precision of its objects against those of the others, corrected where tiles were
        labelled; NaN unless instances are compared.
    transfer
        What ranks: estimated F1, or precision, times CTE, or CTE alone in a small bank; by labels
        estimated F1, or precision, as it is.
    agreement
        Median over tiles of the mean overlap (IoU) with the other models' foregrounds.
    uncorrected_f1
        F1 estimated without the labels; NaN if there are none.
    """

    consistency: Estimate
    estimated_f1: Estimate
    sensitivity: float
    false_positive_rate: float
    precision: Estimate
    transfer: Estimate
    agreement: float
    uncorrected_f1: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, a part of an entry of ``models`` in ``ranking.json``."""
        f1 = {
            **self.estimated_f1.to_dict(),
            "sensitivity": _plain(self.sensitivity),
            "false_positive_rate": _plain(self.false_positive_rate),
        }
        if not math.isnan(self.uncorrected_f1):
            f1["uncorrected"] = self.uncorrected_f1
        return {
            "estimated_f1": f1,
            "consistency": self.consistency.to_dict(),
            **({} if math.isnan(self.precision.value) else {"precision": self.precision.to_dict()}),
            "transfer": self.transfer.to_dict(),
            "agreement": _plain(self.agreement),
        }


@dataclass(frozen=True, slots=True, eq=False)
class BankVerdict:
    """What the models of a bank say of each other.

    Parameters
    ----------
    models
        By name.
    by
        What the transfer score is: ``transfer`` from `WITNESSES` usable models on, ``cte`` below;
        ``labelled_f1`` or ``labelled_precision`` where tiles were labelled.
    usable
        Number of usable models, copies once.
    best_f1
        Highest estimated F1 of a model that does not predict nothing or everything; NaN where none
        is known.
    certainty
        F1 that the consensus is expected to have on a typical tile; NaN where it is not known.
    overlap
        Median over tiles of the IoU of each two models' foregrounds, (model, model), 1 on the
        diagonal; NaN where no tile tells.
    tiles
        Tile by tile, float64 (model, tile): ``cte``, the consistency over all perturbations;
        ``estimated_f1``, where it is known; ``transfer``, their product, where that ranks.
    resampled
        What ranks, in each resample of the target's regions, float64 (model, resample).
    lattice
        Tiles that had too many patterns of votes and were looked at on a lattice of voxels.
    labelled
        Tiles whose labels correct the estimates.
    """

    models: Mapping[str, ModelVerdict]
    by: str
    usable: int
    best_f1: float
    certainty: float
    overlap: Floats
    tiles: Mapping[str, Floats]
    resampled: Floats
    lattice: int
    labelled: int = 0

    @property
    def warning(self) -> str:
        """Why no model of the bank can be trusted on this target; empty if one can."""
        if self.by == "cte":
            return ""
        if math.isnan(self.best_f1):
            return "no model sees what another one sees"
        if self.best_f1 < TRUSTED_F1:
            return f"the best of them is expected to reach an F1 of {self.best_f1:.2f} only"
        if not self.labelled and self.certainty < TRUSTED_CERTAINTY:
            return "the models contradict each other too much to tell what is true"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, the entry ``bank`` of ``ranking.json``."""
        return {
            "usable": self.usable,
            "certainty": _plain(self.certainty),
            "trusted": None if self.by == "cte" else not self.warning,
            "warning": self.warning or None,
            "tiles_on_a_lattice": self.lattice,
            "labelled_tiles": self.labelled,
            "models": list(self.models),
            "overlap": [[_plain(v) for v in row] for row in self.overlap],
        }


def tile_consistency(data: ScoreTable) -> Floats:
    """Return each model's consistency on each tile, the mean over perturbations, (model, tile).

    Parameters
    ----------
    data
        Tile scores. The first metric counts, under perturbations that every model
        supports; NaN ones are left out.
    """
    metric = ScoreName.parse(str(data.attrs["primary"])).metric
    return mean_of_perturbations(data[metric], data["status"])


def judge(
    data: ScoreTable,
    *,
    degenerate: npt.NDArray[np.bool_],
    cell: npt.NDArray[np.int64],
    seed: int,
) -> BankVerdict:
    """Judge the models of a bank by each other.

    Parameters
    ----------
    data
        Tile scores.
    degenerate
        Models that predict nothing or everything, bool (model,).
    cell
        Region of each tile, drawn as a whole by the bootstrap.
    seed
        Of the bootstrap.

    Returns
    -------
    BankVerdict
    """
    tables = votes_in(data)
    ballot = ballot_of(tables)
    truth, overlaps = fit_truth(ballot, ~degenerate), pair_overlaps(tables)
    distinct = truth.original == np.arange(ballot.models)
    usable = int((distinct & ~degenerate & tables.voted.any(axis=0)).sum())
    known = usable >= FEWEST
    unknown = np.full((ballot.models, len(tables)), np.nan)
    f1 = truth.f1(ballot) if known else unknown
    objects = _objects(data, truth.original, ~degenerate) if "precision" in data else unknown
    agreement = _agreement(overlaps, truth.original, ~degenerate)
    draws, measured = resample(cell, seed=seed), labelled_score(data)
    own = [Sampled.of(row, draws) for row in tile_consistency(data)]
    expected = _corrected(f1, Truth.of(data, LABELLED["f1"], seed=seed), draws)
    precision = _corrected(objects, Truth.of(data, LABELLED["precision"], seed=seed), draws)
    witnesses, ranks = precision if "precision" in data else expected, own
    by = measured or ("transfer" if usable >= WITNESSES else "cte")
    if by == "transfer":
        ranks = [w * o for w, o in zip(witnesses, own, strict=True)]
    elif measured:
        ranks = witnesses
    tiles = {name: np.stack([s.tiles for s in each]) for name, each in (("cte", own), (by, ranks))}
    if known or measured:
        tiles["estimated_f1"] = np.stack([s.tiles for s in expected])
    models = {
        name: ModelVerdict(
            consistency=Estimate.of(own[number]),
            estimated_f1=Estimate.of(expected[number]),
            sensitivity=float(truth.sensitivity[number]) if known else math.nan,
            false_positive_rate=float(truth.false_positive_rate[number]) if known else math.nan,
            precision=Estimate.of(precision[number]),
            transfer=Estimate.of(ranks[number]),
            agreement=median(agreement[number]),
            uncorrected_f1=median(f1[number]) if measured else math.nan,
        )
        for number, name in enumerate(data.models)
    }
    return BankVerdict(
        models=models,
        by=by,
        usable=usable,
        best_f1=_highest(e.value for e in np.array(expected, object)[~degenerate]),
        certainty=truth.certainty(ballot) if known else math.nan,
        overlap=_typical_overlaps(overlaps, ballot.models),
        tiles=tiles,
        resampled=np.stack([s.resampled for s in ranks]),
        lattice=int((tables.step > 1).sum()),
        labelled=int((~np.isnan(data[measured])).any(axis=0).sum()) if measured else 0,
    )


def _corrected(estimates: Floats, truth: Truth | None, draws: Resamples) -> list[Sampled]:
    """Return each model's estimate of the whole target, corrected where tiles were labelled."""
    if truth is None:
        return [Sampled.of(row, draws) for row in estimates]
    return [truth.corrected(model, row, draws) for model, row in enumerate(estimates)]


def _objects(
    data: ScoreTable, original: npt.NDArray[np.int64], voters: npt.NDArray[np.bool_]
) -> Floats:
    """Return how precisely each model's objects find those of the others, (model, tile)."""
    typical = np.array([median(row) for row in tile_consistency(data)])
    distinct = voters & (original == np.arange(len(original)))
    weights = np.where(distinct, typical, 0.0) ** WEIGHT_POWER
    return mean_over_others(data["precision"], weights, original)


def mean_over_others(pairs: Floats, weights: Floats, original: npt.NDArray[np.int64]) -> Floats:
    """Return what the others say of each model: the weighted mean over the pairs it is in.

    Parameters
    ----------
    pairs
        How alike two models are on each tile, (pair, tile); NaN ones are left out.
    weights
        Of each model as a witness, (model,); 0 or NaN for those that are none.
    original
        For each model the first one that it is a copy of: copies are no witnesses of each other.

    Returns
    -------
    ndarray of float64, shape (model, tile)
        NaN where there is no witness.
    """
    table = pair_table(pairs, len(original))
    others = np.where(original[:, None] != original[None], np.nan_to_num(weights)[None], 0.0)
    valid = ~np.isnan(table)
    total = np.einsum("ij,ijt->it", others, valid)
    mean = np.einsum("ij,ijt->it", others, np.where(valid, table, 0.0))
    return np.asarray(mean / np.where(total > 0, total, np.nan))


def _agreement(
    overlaps: Floats, original: npt.NDArray[np.int64], voters: npt.NDArray[np.bool_]
) -> Floats:
    """Return the mean overlap of each model with the others that have a say, (model, tile)."""
    distinct = voters & (original == np.arange(len(original)))
    return mean_over_others(overlaps, distinct.astype(np.float64), original)


def _typical_overlaps(overlaps: Floats, models: int) -> Floats:
    """Return the median over tiles of each pair's overlap as a table."""
    table = pair_table(np.array([median(row) for row in overlaps]), models)
    np.fill_diagonal(table, 1.0)
    return table


def _highest(values: Iterable[float]) -> float:
    return max((v for v in values if not math.isnan(v)), default=math.nan)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
