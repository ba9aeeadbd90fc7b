"""Certainty of an order of models: how often each one wins when regions are drawn again.

Also the recommendation that the report makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.ranking.bootstrap import RESAMPLES, draw, weighted_medians

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Certainty", "answer", "certainty"]


@dataclass(frozen=True, slots=True)
class Certainty:
    """How often models come out ahead in a bootstrap over regions of the volume.

    Parameters
    ----------
    first
        Fraction of the resamples in which each model has the greatest CTE; equal ones share
        (model,).
    beats
        Fraction in which the model of the row is ahead of that of the column; equal counts half
        (model, model).
    """

    first: NDArray[np.float64]
    beats: NDArray[np.float64]


def certainty(histogram: NDArray[np.int64], *, seed: int, resamples: int = RESAMPLES) -> Certainty:
    """Count how often each model is ahead when the regions of a volume are drawn again.

    All models share the drawn regions, so a region that is hard for all of them changes no order.
    Intervals of single models overlap even then.

    Parameters
    ----------
    histogram
        Tiles by consistency (model, region, bin).
    seed, resamples
        Of the bootstrap (`cte_dask.ranking.bootstrap`).

    Returns
    -------
    Certainty
        From medians that are exact to a bin.
    """
    # Regions outside the run's tiles would be drawn in vain.
    regions = np.flatnonzero(histogram.sum(axis=(0, 2)))
    drawn = draw(len(regions), seed=seed, resamples=resamples)
    medians = np.stack([_medians(model[regions], drawn) for model in histogram])
    return Certainty(_first(medians), _beats(medians))


def _medians(tiles: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the median bin of each resample; -1 where it holds no tile at all."""
    bins = np.flatnonzero(tiles.sum(axis=0))
    if not len(bins):
        return np.full(len(drawn), -1.0)
    # BLAS multiplies floats fast, and float64 holds every count exactly.
    weights = drawn.astype(np.float64) @ tiles[:, bins].astype(np.float64)
    return np.nan_to_num(weighted_medians(bins.astype(np.float64), weights), nan=-1.0)


def _first(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    ahead = medians == medians.max(axis=0)
    shares: NDArray[np.float64] = (ahead / ahead.sum(axis=0)).mean(axis=1)
    return shares


def _beats(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    difference = medians[:, None] - medians[None]
    # -1, 0, 1 become 0, 1/2, 1: the mean counts wins, equal ones half.
    ahead: NDArray[np.float64] = ((np.sign(difference) + 1) / 2).mean(axis=2)
    return ahead


CLEAR = 0.95
"""Fraction of the resamples from which on one model clearly beats another."""


def answer(
    models: Sequence[Mapping[str, Any]],
    usable: Sequence[int],
    race: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return the recommended model and its certainty; None if no model can be recommended.

    Parameters
    ----------
    models
        Best first; ``beaten`` is the fraction of resamples in which the first one is ahead.
    usable
        Places of the models that are not degenerate.
    race
        The result of an anytime run in ``ranking.json``; None for an exhaustive run.
    """
    recommendable = [models[n] for n in usable if models[n]["cte"] is not None]
    if not recommendable:
        return None
    top, others = recommendable[0], recommendable[1:]
    if race is None:
        beats = [m for m in others if m["beaten"] >= CLEAR]
    else:
        beats = [m for m in others if m["name"] not in {*race["close"], *race["rivals"]}]
    undecided = [m for m in others if m not in beats]
    decided = not undecided if race is None else race["decided"]
    return {
        "model": top,
        "beats": beats,
        "open": undecided,
        "verdict": "alone" if not others else "clear" if decided else "open",
        "misleading": [
            m for m in models if m["degenerate"] and m["cte"] is not None and m["cte"] >= top["cte"]
        ],
    }
