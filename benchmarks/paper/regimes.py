"""What of a score is the target's doing and what the network's: looks at the records of a task.

- The *model's share*: of the variance of a score between the models of a target, how much is the
  same on every target. A score that told how well a network fits a target would have no larger
  share than the performance itself.
- τ of what is left when a model's mean over the other targets is taken off.
- τ among models of one training regime, where the way of training cannot order them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

__all__ = ["centred_tau", "model_share", "regime_of", "regime_tau"]

Record = dict[str, Any]
PLAIN = "-plain"


def regime_of(name: str) -> str:
    """Return how a model of the nuclei bank was trained.

    Examples
    --------
    >>> regime_of("nuclei-rpe1-plain"), regime_of("nuclei-rpe1")
    ('plain', 'full')
    """
    return "plain" if name.endswith(PLAIN) else "full"


def model_share(records: Sequence[Record], score: str) -> float | None:
    """Return the share of a score's variance between models that is the same on every target.

    Parameters
    ----------
    records
        Of the targets of one task, all of the same bank; models at home count too.
    score
        ``metric@perturbation``, a comparator, or a performance.

    Returns
    -------
    float or None
        Of the log odds of consistencies and performances, of other scores as they are; the mean of
        each target is taken off. None if a model has no value on a target.
    """
    table = _table(records, score)
    if np.isnan(table).any() or len(table) < 2:
        return None
    table -= table.mean(axis=1, keepdims=True)
    variance = float((table**2).sum())
    return float(len(table) * (table.mean(axis=0) ** 2).sum() / variance) if variance else None


def regime_tau(records: Sequence[Record], performance: str, score: str) -> dict[str, float]:
    """Return the mean τ over targets among the compared models of each training regime."""
    taus: dict[str, list[float]] = {}
    for record in records:
        compared = [m for m in record["models"] if not m["left_out"]]
        for regime in dict.fromkeys(regime_of(m["name"]) for m in compared):
            its = [m for m in compared if regime_of(m["name"]) == regime]
            pairs = [(_value(m, score), _value(m, performance)) for m in its]
            known = [p for p in pairs if not math.isnan(sum(p))]
            if len(known) > 2:
                taus.setdefault(regime, []).append(kendalltau(*zip(*known, strict=True)).statistic)
    return {regime: float(np.nanmean(values)) for regime, values in taus.items()}


def centred_tau(records: Sequence[Record], performance: str, score: str) -> float | None:
    """Return the mean τ of a score less the same model's mean over the *other* targets.

    Without labels, but not for a single target: what is left is what the score says of this target
    and not of the network. None where `model_share` has none.
    """
    table, truth = _table(records, score), _table(records, performance)
    if np.isnan(table).any() or np.isnan(truth).any() or len(table) < 2:
        return None
    taus = []
    for i, record in enumerate(records):
        home = {m["name"]: bool(m["left_out"]) for m in record["models"]}
        compared = np.array([not home[m["name"]] for m in records[0]["models"]])
        own = (table[i] - np.delete(table, i, axis=0).mean(axis=0))[compared]
        taus.append(kendalltau(own, truth[i, compared]).statistic)
    return float(np.nanmean(taus))


def _table(records: Sequence[Record], score: str) -> NDArray[np.float64]:
    """Return a score (target, model), log odds where it lies in [0, 1]; NaN where there is none."""
    names = [m["name"] for m in records[0]["models"]]
    rows = []
    for record in records:
        by_name = {m["name"]: m for m in record["models"]}
        rows.append([_value(by_name[n], score) if n in by_name else math.nan for n in names])
    table = np.array(rows, np.float64)
    if np.isnan(table).any() or table.min() < 0 or table.max() > 1:
        return table
    table = np.clip(table, 1e-6, 1 - 1e-6)
    odds: NDArray[np.float64] = np.log(table / (1 - table))
    return odds


def _value(model: dict[str, Any], score: str) -> float:
    value = model[score] if score in ("f1", "map") else model["scores"].get(score, {}).get("own")
    return math.nan if value is None else float(value)
