"""How sure an order of models is: how often each one wins when regions are drawn again.

Which model a report tells to take, and how sure that is.
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
    """Draw the regions of a volume again and again and see which model is ahead.

    All models see the same drawn regions: what a hard region does to all of them cancels, which
    overlapping intervals of single models do not show.

    Parameters
    ----------
    histogram
        Tiles by consistency (model, region, bin).
    seed, resamples
        Of the bootstrap (`cte_dask.ranking.bootstrap`).

    Returns
    -------
    Certainty
        Of medians that are exact to a bin.
    """
    used = np.flatnonzero(histogram.sum(axis=(0, 2)))
    drawn = draw(len(used), seed=seed, resamples=resamples)
    medians = np.stack([_medians(model[used], drawn) for model in histogram])
    return Certainty(_first(medians), _beats(medians))


def _medians(tiles: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the median bin of each resample; -1 where it holds no tile at all."""
    filled = np.flatnonzero(tiles.sum(axis=0))
    if not len(filled):
        return np.full(len(drawn), -1.0)
    # floats multiply fast, and hold every count exactly
    weights = drawn.astype(np.float64) @ tiles[:, filled].astype(np.float64)
    return np.nan_to_num(weighted_medians(filled.astype(np.float64), weights), nan=-1.0)


def _first(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    ahead = medians == medians.max(axis=0)
    shares: NDArray[np.float64] = (ahead / ahead.sum(axis=0)).mean(axis=1)
    return shares


def _beats(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    difference = medians[:, None] - medians[None]
    ahead: NDArray[np.float64] = ((np.sign(difference) + 1) / 2).mean(axis=2)
    return ahead


CLEAR = 0.95


def answer(
    models: Sequence[Mapping[str, Any]],
    usable: Sequence[int],
    race: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return which model to take and how sure that is; None if no model can be recommended.

    Parameters
    ----------
    models
        Best first; ``beaten`` is in how many resamples the first one is ahead.
    usable
        Places of those that are not degenerate.
    race
        What an anytime run came to, of ``ranking.json``; None of an exhaustive one.
    """
    known = [models[n] for n in usable if models[n]["cte"] is not None]
    if not known:
        return None
    top, others = known[0], known[1:]
    if race is None:
        beats = [m for m in others if m["beaten"] >= CLEAR]
    else:
        beats = [m for m in others if m["name"] not in {*race["close"], *race["rivals"]}]
    open_ = [m for m in others if m not in beats]
    decided = not open_ if race is None else race["decided"]
    shown = top["cte"]
    return {
        "model": top,
        "beats": beats,
        "open": open_,
        "verdict": "alone" if not others else "clear" if decided else "open",
        "misleading": [
            m for m in models if m["degenerate"] and m["cte"] is not None and m["cte"] >= shown
        ],
    }
