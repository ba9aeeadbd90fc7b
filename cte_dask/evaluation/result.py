"""The result of an evaluation: each model's performance, each score's correlation with it.

Also the names of the measures of a tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cte_dask.consistency import PAIRS, metric
from cte_dask.consistency.score_names import ScoreName
from cte_dask.evaluation.rank_correlation import RankCorrelation

__all__ = [
    "COMPARATORS",
    "MEASURES",
    "PERFORMANCES",
    "Evaluation",
    "ModelEvaluation",
    "ScoreCorrelation",
    "cte_name",
    "performance_of",
]


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """One model against the labels.

    Parameters
    ----------
    name, rank, flags
        The same as in the ranking, which saw no labels.
    performance
        ``f1`` and, where the run has instances, ``map``: medians over the labelled tiles.
    scores
        Every ``metric@perturbation``, ``entropy`` (negative, so that higher is better),
        ``confidence`` and ``ccfv``: median over the tiles that the model has a number for.
    common
        The same over the tiles that every unflagged model has a number for; CCFV has none.
    n_labelled
        Labelled tiles that the model was evaluated on.
    cause
        Why it could not be evaluated; empty if it was.
    left_out
        Why it is left out of the correlations though it was evaluated; empty if it is not.
    """

    name: str
    rank: int | None
    flags: tuple[str, ...]
    performance: Mapping[str, float]
    scores: Mapping[str, float]
    common: Mapping[str, float]
    n_labelled: int
    cause: str = ""
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class ScoreCorrelation:
    """Correlation of one score with one performance over the models of a bank.

    Parameters
    ----------
    score, performance
        Their names.
    correlation
        Correlation of the scores themselves; it treats every ranked model alike.
    low, high
        95 % bootstrap interval of Kendall's τ; NaN for CCFV, which no single tile has.
    flagged_last
        Of the scores with models flagged as degenerate moved below all others, where the ranking
        puts them. The move has no size, so only τ and ρ are to be read.
    common, n_common
        Of the medians over common tiles, and how many tiles are common; None for CCFV.
    """

    score: str
    performance: str
    correlation: RankCorrelation
    low: float
    high: float
    flagged_last: RankCorrelation
    common: RankCorrelation | None
    n_common: int | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run against labels.

    Parameters
    ----------
    primary
        The score that ranked.
    models
        In rank order.
    score_correlations
        One a score and performance.
    n_tiles, n_labelled, n_units
        Tiles scored, those with labels, and the units that the bootstrap drew.
    seed
        Seed of the bootstrap, the permutations and the sampled voxels.
    notes
        Remarks for the reader, such as missing blocks.
    about
        Places of the run and of the labels, settings, and versions of the software.
    tiles
        Columns of a table of one row a model and tile: ``model``, ``tile``, first voxel ``z``,
        ``y``, ``x``, ``labelled`` (voxels) and every measure.
    """

    primary: str
    models: tuple[ModelEvaluation, ...]
    score_correlations: tuple[ScoreCorrelation, ...]
    n_tiles: int
    n_labelled: int
    n_units: int
    seed: int
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    tiles: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def score_correlation(self, score: str, performance: str | None = None) -> ScoreCorrelation:
        """Return the correlation of a score with a performance.

        Parameters
        ----------
        score
            ``metric@perturbation``, ``entropy``, ``confidence`` or ``ccfv``.
        performance
            ``f1`` or ``map``; by default the one that the score is about.

        Raises
        ------
        ValueError
            If the evaluation has none of that score and performance.
        """
        performance = performance or performance_of(score, self.performances)
        for correlation in self.score_correlations:
            if (correlation.score, correlation.performance) == (score, performance):
                return correlation
        have = ", ".join(dict.fromkeys(a.score for a in self.score_correlations))
        raise ValueError(f"no agreement of {score!r} with {performance!r}: there are {have}")

    @property
    def performances(self) -> tuple[str, ...]:
        """``f1`` and, where the run has instances, ``map``."""
        return tuple(dict.fromkeys(a.performance for a in self.score_correlations))


def cte_name(score: str) -> ScoreName | None:
    """Return what a score of an evaluation is the CTE of; None of a comparator, such as entropy."""
    return ScoreName.parse(score) if "@" in score else None


def performance_of(score: str, performances: Sequence[str]) -> str:
    """Return the performance that a score is about: mAP where instances are compared, else F1."""
    name = cte_name(score)
    if score in OF_ALL_PERTURBATIONS:
        return performances[-1]  # they are about what the run is about
    instances = name is not None and not set(PAIRS).isdisjoint(metric(name.metric).statistics)
    return "map" if instances and "map" in performances else "f1"


OF_ALL_PERTURBATIONS = "cte", "transfer"
"""Scores over all perturbations of a run (`cte_dask.ranking.transfer`)."""

PERFORMANCES = ("f1", "map")
"""Against labels: F1 of the foreground, mean average precision of the instances."""

COMPARATORS = {"entropy": -1.0, "confidence": 1.0}
"""Scores without labels beside CTE (`cte_dask.evaluation.comparators.confidence`), and the sign
that makes higher better."""

MEASURES = (*PERFORMANCES, *COMPARATORS)
"""Everything measured of a tile, in the order of the columns."""
