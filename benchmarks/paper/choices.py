"""What a ranking is worth to someone who picks by it: pairs put in order, and the cost of a pick.

Kendall's τ counts a pair of models a thousandth of F1 apart like one half an F1 apart. Here pairs
are told apart by how far they lie from each other, and the model ranked first is compared with the
best one, and with a model picked at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

__all__ = ["GAPS", "choices", "ordered_pairs"]

GAPS = (0.0, 0.02, 0.05, 0.1, 1.0)
"""Edges of the differences of performance that pairs are told apart by."""

Record = dict[str, Any]
Model = tuple[float, float]


def ordered_pairs(records: Sequence[Record], performance: str, score: str) -> list[dict[str, Any]]:
    """Count the pairs of models that a score puts in the order of their performance.

    Parameters
    ----------
    records
        Of the targets of one task; pairs are of models on one target, those at home left out.
    performance, score
        Their names.

    Returns
    -------
    list of dict
        One a step of `GAPS`: ``above``, ``below``, ``pairs``, and ``share`` in order (a tie of the
        scores counts half), None without a pair.
    """
    seen = [p for record in records for p in _pairs(list(_compared(record, performance, score)))]
    rows = []
    for low, high in pairwise(GAPS):
        its = [right for gap, right in seen if low < gap <= high]
        share = float(np.mean(its)) if its else None
        rows.append({"above": low, "below": high, "pairs": len(its), "share": share})
    return rows


def choices(records: Sequence[Record], performance: str, score: str) -> dict[str, Any]:
    """Compare the model that a score puts first with the best one and with one picked at random.

    Returns
    -------
    dict
        Means over targets: ``lost``, best performance less that of the model ranked first;
        ``lost_at_random``, less the mean of all models; ``best_found``, share of targets whose best
        model is first; ``n_targets``. Models at home are left out. None without a target.
    """
    rows = []
    for record in records:
        models = list(_compared(record, performance, score))
        if len(models) > 1:
            best = max(p for _, p in models)
            first = max(models)[1]
            rows.append(
                (best - first, best - float(np.mean([p for _, p in models])), first == best)
            )
    lost, random_loss, hits = np.mean(rows, axis=0).tolist() if rows else (None, None, None)
    return {
        "lost": lost,
        "lost_at_random": random_loss,
        "best_found": hits,
        "n_targets": len(rows),
    }


def _compared(record: Record, performance: str, score: str) -> Iterator[Model]:
    """Yield (score, performance) of each model that has both and is not at home."""
    for model in record["models"]:
        value = model["scores"].get(score, {}).get("own")
        reached = model.get(performance)
        if value is not None and reached is not None and not model["left_out"]:
            yield value, reached


def _pairs(models: Sequence[Model]) -> Iterator[tuple[float, float]]:
    """Yield the gap in performance of each pair, and whether it is in order: 1, 0, or ½ if tied."""
    for (a, p), (b, q) in combinations(models, 2):
        yield abs(p - q), float(0.5 * (1 + np.sign(a - b) * np.sign(p - q)))
