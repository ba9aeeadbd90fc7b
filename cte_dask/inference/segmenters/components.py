"""Foreground above a threshold, cut into its connected components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cte_dask.arrays import Array
from cte_dask.inference.segmenters.array_functions import ndimage_of, neighbours
from cte_dask.inference.segmenters.maps import check_fraction, check_sizes, checked_maps
from cte_dask.inference.segmenters.sizes import within_sizes

__all__ = ["Components"]


@dataclass(frozen=True, slots=True)
class Components:
    """Threshold and connected components.

    Parameters
    ----------
    threshold
        A voxel is foreground if its probability is strictly greater, compared in the map's dtype.
    connectivity
        1 joins voxels through faces, 2 through edges too, 3 through corners too; at most the number
        of axes is used.
    min_size, max_size
        Objects of fewer or of more voxels become background; None sets no upper limit.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    threshold: float = 0.5
    connectivity: int = 1
    min_size: int = 0
    max_size: int | None = None

    channels: ClassVar[tuple[str, ...]] = ("foreground",)
    optional: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_fraction("threshold", self.threshold)
        check_sizes(self.min_size, self.max_size)
        if self.connectivity not in {1, 2, 3}:
            raise ValueError(f"connectivity {self.connectivity} must be 1, 2 or 3")

    def __call__(self, maps: Array) -> Array:
        """Segment one frame; see `cte_dask.inference.segmenters.Segmenter`."""
        (foreground,) = checked_maps(maps, self.channels)
        near = neighbours(foreground.ndim, self.connectivity)
        labels, _ = ndimage_of(maps).label(foreground > self.threshold, structure=near)
        return within_sizes(labels, min_size=self.min_size, max_size=self.max_size)
