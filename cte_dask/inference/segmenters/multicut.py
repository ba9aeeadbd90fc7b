"""Objects between boundaries: watershed regions joined by the multicut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cte_dask.arrays import Array
from cte_dask.inference.segmenters.agglomerated import Agglomerated
from cte_dask.inference.segmenters.bioimage_cpp import library
from cte_dask.inference.segmenters.region_graph import Borders

__all__ = ["Multicut"]

_NEVER = -1e6
"""Cost of cutting a region off the background, so low that the cheapest cut always does; its
magnitude exceeds all other costs of a tile together."""


@dataclass(frozen=True, kw_only=True)
class Multicut(Agglomerated):
    """Multicut of the region graph of a `BoundaryWatershed`, as in PlantSeg.

    To cut a border of mean boundary probability p costs log((1 - p) / p) + log((1 - beta) / beta),
    weighted by its size over the largest; greedy additive contraction and then Kernighan-Lin
    (Keuper et al. 2015, arXiv 1505.06973) look for the cheapest cut.

    Parameters
    ----------
    threshold, foreground_threshold, sigma, sigma_height, seed_distance, alpha
        Parameters of the regions, see `BoundaryWatershed`.
    min_size, max_size
        Least and largest size of the joined objects, in voxels.
    spacing
        Extent of a voxel along each axis, see `BoundaryWatershed`.
    beta
        In (0, 1); higher values split more.
    """

    def partition(self, borders: Borders) -> Array:
        """Return the number of its cluster for each node of the region graph."""
        multicut = library().graph.multicut
        # no probability of 0 or 1, whose odds are infinite
        p = np.clip(borders.strength, 1e-3, 1 - 1e-3)
        odds = np.log((1 - p) / p) + np.log((1 - self.beta) / self.beta)
        costs = odds * borders.size / borders.size.max(initial=1.0)
        objective = multicut.MulticutObjective(
            borders.graph, np.where(borders.outer, _NEVER, costs)
        )
        multicut.GreedyAdditiveMulticut().optimize(objective)
        nodes: Array = multicut.KernighanLinMulticut().optimize(objective)
        return nodes
