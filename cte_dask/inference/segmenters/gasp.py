"""Objects between boundaries: watershed regions joined by agglomeration on a signed graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cte_dask.arrays import Array
from cte_dask.inference.segmenters.agglomerated import Agglomerated
from cte_dask.inference.segmenters.bioimage_cpp import library
from cte_dask.inference.segmenters.region_graph import Borders

__all__ = ["Gasp"]


@dataclass(frozen=True, kw_only=True)
class Gasp(Agglomerated):
    """GASP with average linkage on the region graph of a `BoundaryWatershed`, as in PlantSeg.

    Bailoni et al. 2022, arXiv 1906.11713. A border of mean boundary probability p attracts by
    1 - beta - p; regions are joined in the order of that strength until only repulsion is left.

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
        # -1 repels most: no region joins the background
        attraction = np.where(borders.outer, -1.0, 1 - self.beta - borders.strength)
        policy = library().graph.agglomeration.GaspClusterPolicy(linkage="mean")
        nodes: Array = policy.optimize(borders.graph, attraction, edge_sizes=borders.size)
        return nodes
