"""Names of what an evaluation measures of a tile."""

from __future__ import annotations

__all__ = ["COMPARATORS", "MEASURES", "PERFORMANCES"]

PERFORMANCES = ("f1", "map")
"""Against labels: F1 of the foreground, mean average precision of the instances."""

COMPARATORS = {"entropy": -1.0, "confidence": 1.0}
"""What ranks without labels beside CTE (`cte_dask.baselines`), and the sign that makes higher
better."""

MEASURES = (*PERFORMANCES, *COMPARATORS)
"""All of them, in the order of the columns."""
