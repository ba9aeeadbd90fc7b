"""Objects between boundaries: watershed regions joined by the multicut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cte_dask.arrays import Array
from cte_dask.segment.bioimage import library
from cte_dask.segment.boundary_watershed import BoundaryWatershed
from cte_dask.segment.region_graph import Borders, joined

__all__ = ["Multicut"]

_NEVER = -1e6
"""Cost of joining a region to the background; more than all other costs of a tile together."""


@dataclass(frozen=True, kw_only=True)
class Multicut(BoundaryWatershed):
    """Multicut of the region graph of a `BoundaryWatershed`, as in PlantSeg.

    To cut a border of mean boundary probability p costs log((1 - p) / p) + log((1 - beta) / beta),
    weighted by its size over the largest; greedy additive contraction and then Kernighan-Lin
    (Keuper et al. 2015, arXiv 1505.06973) look for the cheapest cut.

    Parameters
    ----------
    beta
        In (0, 1); higher values split more.
    sigma_height, threshold, sigma, min_size, ...
        The others are those of `BoundaryWatershed`; the sizes are of the joined objects.
    """

    beta: float = 0.5
    sigma_height: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise ValueError(f"beta {self.beta} must be above 0 and below 1")

    def merged(self, regions: Array, boundary: Array) -> Array:
        """Join regions along the borders that are cheaper to keep than to cut."""
        return joined(regions, boundary, self._partition)

    def _partition(self, borders: Borders) -> Array:
        multicut = library().graph.multicut
        p = np.clip(borders.strength, 1e-3, 1 - 1e-3)
        odds = np.log((1 - p) / p) + np.log((1 - self.beta) / self.beta)
        costs = odds * borders.size / borders.size.max(initial=1.0)
        objective = multicut.MulticutObjective(
            borders.graph, np.where(borders.outer, _NEVER, costs)
        )
        multicut.GreedyAdditiveMulticut().optimize(objective)
        nodes: Array = multicut.KernighanLinMulticut().optimize(objective)
        return nodes
