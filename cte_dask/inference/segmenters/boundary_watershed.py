"""Objects between boundaries: watershed on a boundary map, seeds far from every boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cte_dask.arrays import Array
from cte_dask.inference.segmenters.array_functions import largest
from cte_dask.inference.segmenters.flooding import absorbed, depth_of, flooded, seeds_of, smoothed
from cte_dask.inference.segmenters.maps import (
    check_at_least,
    check_fraction,
    check_sizes,
    check_spacing,
    checked_maps,
)
from cte_dask.inference.segmenters.sizes import within_sizes

__all__ = ["BoundaryWatershed"]


@dataclass(frozen=True, kw_only=True)
class BoundaryWatershed:
    """Distance-transform watershed on a boundary map, as in PlantSeg.

    Wolny et al. 2020, doi:10.7554/eLife.57613. Without a foreground channel everything between
    boundaries is an object, the background too, which `max_size` removes. The flooding runs on the
    host.

    Parameters
    ----------
    threshold
        A voxel is boundary if its probability is strictly greater, compared in the map's dtype.
    foreground_threshold
        A voxel is foreground if its probability is strictly greater; used if there is a foreground
        channel.
    sigma
        Standard deviation of the Gaussian that smooths the distance to the boundary before seeds
        are sought.
    sigma_height
        Standard deviation of the Gaussian that smooths the boundary map before it is flooded. It
        gives smooth outlines and more regions, which suits segmenters that join regions later.
    seed_distance
        Least distance of two seeds along some axis.
    alpha
        Weight of the boundary map in the landscape that is flooded; the rest is shallowness (one
        minus the distance to the boundary over the largest).
    min_size
        Neighbours absorb objects of fewer voxels.
    max_size
        Objects of more voxels become background; None sets no limit.
    spacing
        Extent of a voxel (z, y, x), in whose units the distance and the sigmas are; None for
        voxels as long as wide.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    threshold: float = 0.5
    foreground_threshold: float = 0.5
    sigma: float = 2.0
    sigma_height: float = 0.0
    seed_distance: float = 1.0
    alpha: float = 1.0
    min_size: int = 0
    max_size: int | None = None
    spacing: tuple[float, float, float] | None = None

    channels: ClassVar[tuple[str, ...]] = ("boundary", "foreground")
    optional: ClassVar[tuple[str, ...]] = ("foreground",)

    def __post_init__(self) -> None:
        check_fraction("threshold", self.threshold)
        check_fraction("foreground_threshold", self.foreground_threshold)
        check_at_least("sigma", self.sigma, 0)
        check_at_least("sigma_height", self.sigma_height, 0)
        check_at_least("seed_distance", self.seed_distance, 1)
        check_sizes(self.min_size, self.max_size)
        check_spacing(self.spacing)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} must be in [0, 1]")

    def __call__(self, maps: Array) -> Array:
        """Segment one frame; see `cte_dask.inference.segmenters.Segmenter`."""
        boundary, *masks = checked_maps(maps, self.channels, self.optional)
        mask = masks[0] > self.foreground_threshold if masks else None
        # small objects are absorbed after the joining, when their size is final
        regions, height = self.regions(boundary, mask)
        labels = absorbed(self.merged(regions, boundary), height, self.min_size)
        return within_sizes(labels, max_size=self.max_size)

    def regions(self, boundary: Array, mask: Array | None) -> tuple[Array, Array]:
        """Flood from the seeds; return the regions and the landscape.

        Parameters
        ----------
        boundary
            Probability of a boundary.
        mask
            True where an object may be; None for everywhere.
        """
        inside = boundary <= self.threshold
        if mask is not None:
            inside &= mask
        depth = depth_of(inside, self.spacing)
        seeds, smooth = seeds_of(
            depth, sigma=self.sigma, seed_distance=self.seed_distance, spacing=self.spacing
        )
        height = smoothed(boundary.astype(np.float32), self.sigma_height, self.spacing)
        if self.alpha < 1:
            # both terms lie in [0, 1], so that alpha weighs like with like
            shallow = 1 - smooth / max(largest(smooth), 1e-6)
            height = self.alpha * height + (1 - self.alpha) * shallow
        return flooded(height, seeds, mask), height

    def merged(self, regions: Array, boundary: Array) -> Array:
        """Return the regions as they are; agglomerating segmenters join them here."""
        return regions
