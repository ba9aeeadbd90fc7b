"""Watershed regions joined into objects: what the agglomerating segmenters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cte_dask.arrays import Array
from cte_dask.inference.segmenters.boundary_watershed import BoundaryWatershed
from cte_dask.inference.segmenters.region_graph import Borders, joined

__all__ = ["Agglomerated"]


@dataclass(frozen=True, kw_only=True)
class Agglomerated(BoundaryWatershed, ABC):
    """Regions of a `BoundaryWatershed`, joined as a partition of their graph says.

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

    beta: float = 0.5
    sigma_height: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise ValueError(f"beta {self.beta} must be above 0 and below 1")

    def merged(self, regions: Array, boundary: Array) -> Array:
        """Join regions as `partition` says."""
        return joined(regions, boundary, self.partition)

    @abstractmethod
    def partition(self, borders: Borders) -> Array:
        """Return the number of its cluster for each node of the region graph."""
