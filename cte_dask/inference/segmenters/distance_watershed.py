"""Foreground above a threshold, cut where it is narrow: watershed on the distance transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cte_dask.arrays import Array, namespace
from cte_dask.inference.segmenters.array_functions import largest, ndimage_of
from cte_dask.inference.segmenters.flooding import depth_of, flooded, seeds_of
from cte_dask.inference.segmenters.maps import (
    check_at_least,
    check_fraction,
    check_sizes,
    check_spacing,
    checked_maps,
)
from cte_dask.inference.segmenters.sizes import within_sizes

__all__ = ["DistanceWatershed"]


@dataclass(frozen=True, slots=True)
class DistanceWatershed:
    """Seeded watershed on the distance to the background, for roundish objects that touch.

    The flooding runs on the host.

    Parameters
    ----------
    threshold
        A voxel is foreground if its probability is strictly greater, compared in the map's dtype.
    sigma
        Standard deviation of the Gaussian that smooths the distances before seeds are sought; more
        keeps uneven objects in one piece.
    seed_distance
        Least distance of two seeds along some axis: about the radius of an object.
    min_size, max_size
        Objects of fewer or of more voxels become background; None sets no upper limit.
    spacing
        Extent of a voxel (z, y, x), in whose units `sigma` and `seed_distance` are; None for voxels
        as long as wide.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    threshold: float = 0.5
    sigma: float = 1.0
    seed_distance: float = 5.0
    min_size: int = 0
    max_size: int | None = None
    spacing: tuple[float, float, float] | None = None

    channels: ClassVar[tuple[str, ...]] = ("foreground",)
    optional: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_fraction("threshold", self.threshold)
        check_at_least("sigma", self.sigma, 0)
        check_at_least("seed_distance", self.seed_distance, 1)
        check_sizes(self.min_size, self.max_size)
        check_spacing(self.spacing)

    def __call__(self, maps: Array) -> Array:
        """Segment one frame; see `cte_dask.inference.segmenters.Segmenter`."""
        (probability,) = checked_maps(maps, self.channels)
        foreground = probability > self.threshold
        depth = depth_of(foreground, self.spacing)
        seeds, smooth = seeds_of(
            depth, sigma=self.sigma, seed_distance=self.seed_distance, spacing=self.spacing
        )
        # deep places are flooded first, so the basins meet where objects are narrow
        labels = _with_unseeded(flooded(-smooth, seeds, foreground), foreground)
        return within_sizes(labels, min_size=self.min_size, max_size=self.max_size)


def _with_unseeded(labels: Array, foreground: Array) -> Array:
    """Label the components that hold no seed, because a deeper voxel lay within the distance."""
    xp = namespace(foreground, labels)
    rest, _ = ndimage_of(foreground).label(foreground & (labels == 0))
    # numbered after the labels there are
    numbered: Array = xp.where(rest > 0, rest + int(largest(labels)), labels)
    return numbered
