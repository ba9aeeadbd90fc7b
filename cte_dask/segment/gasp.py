"""Objects between boundaries: watershed regions joined by agglomeration on a signed graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cte_dask.arrays import Array
from cte_dask.segment.bioimage import library
from cte_dask.segment.boundary_watershed import BoundaryWatershed
from cte_dask.segment.region_graph import Borders, joined

__all__ = ["Gasp"]


@dataclass(frozen=True, kw_only=True)
class Gasp(BoundaryWatershed):
    """GASP with average linkage on the region graph of a `BoundaryWatershed`, as in PlantSeg.

    Bailoni et al. 2022, arXiv 1906.11713. A border of mean boundary probability p attracts by
    1 - beta - p; regions are joined in the order of that strength until only repulsion is left.

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
        """Join regions while some border attracts."""
        return joined(regions, boundary, self._partition)

    def _partition(self, borders: Borders) -> Array:
        attraction = np.where(borders.outer, -1.0, 1 - self.beta - borders.strength)
        policy = library().graph.agglomeration.GaspClusterPolicy(linkage="mean")
        nodes: Array = policy.optimize(borders.graph, attraction, edge_sizes=borders.size)
        return nodes
