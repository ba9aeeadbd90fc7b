"""Consistency of two predictions of one tile: metrics as sufficient statistics and a score.

Importable where only an array library is. A metric names the **statistics** it needs, a few numbers
a tile, and the **score** that turns them into a consistency in [0, 1]; metrics share statistics, so
one fused pass over the voxels serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cte_dask.arrays import Array
from cte_dask.registry import Registry, checked

__all__ = ["METRICS", "PAIRS", "STATISTICS", "Metric", "metric", "needs_instances"]

STATISTICS = ("n_union", "n_disagree", "sum_ei", "n_reference", "n_voxels", "n_nan")
"""What `binary.binary_agreement_batch` counts in one tile, in the order of its columns."""

PAIRS = ("pair_common", "pair_perturbed", "pair_reference")
"""Pair counts of instance labels, NaN where no instances were made."""

METRICS = Registry(
    "metric",
    {
        "nhd": "cte_dask.consistency.binary:NHD",
        "ei": "cte_dask.consistency.binary:EI",
        "vrand": "cte_dask.consistency.instance:VRAND",
    },
)
"""Name of each metric and where it is defined, as ``"module:attribute"``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A consistency metric: what it needs of a tile and how it scores that.

    Parameters
    ----------
    name
        Lower-case name, as in ``--metric``.
    statistics
        Names of the sufficient statistics, in the order `score` takes them.
    score
        Function of those statistics, elementwise over arrays of tiles; returns float64 in [0, 1],
        NaN where the tile says nothing.
    """

    name: str
    statistics: tuple[str, ...]
    score: Callable[..., Any]

    def __call__(self, table: Mapping[str, Any]) -> Array:
        """Score tiles from a table of their statistics.

        Parameters
        ----------
        table
            Statistic name to an array of any shape; all shapes alike.

        Returns
        -------
        ndarray of float64
            The consistency of each tile.

        Raises
        ------
        ValueError
            If a statistic is missing from `table`.
        """
        missing = [s for s in self.statistics if s not in table]
        if missing:
            raise ValueError(f"metric {self.name!r} needs {missing}, the table has {list(table)}")
        scores: Array = self.score(*(table[s] for s in self.statistics))
        return scores


def metric(name: str) -> Metric:
    """Return a metric by its name, or from outside as ``"your_package.module:ATTRIBUTE"``.

    Parameters
    ----------
    name
        A key of `METRICS`, or the place of a `Metric` of your own.

    Returns
    -------
    Metric
        The metric itself.

    Raises
    ------
    ValueError
        If there is no such metric.
    TypeError
        If the place named holds something else.

    Examples
    --------
    >>> metric("nhd").statistics
    ('n_union', 'n_disagree')
    """
    return checked(METRICS.load(name), Metric, name)


def needs_instances(metrics: Iterable[str]) -> bool:
    """Whether one of some metrics compares instances.

    Parameters
    ----------
    metrics
        Their names.

    Returns
    -------
    bool
    """
    return any(set(metric(name).statistics) & set(PAIRS) for name in metrics)
