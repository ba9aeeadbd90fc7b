"""Foreground above a threshold, cut into its connected components."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np

from cte_dask.arrays import Array, namespace
from cte_dask.inference.segmenters.maps import check_fraction, check_sizes, checked_maps
from cte_dask.inference.segmenters.sizes import within_sizes

__all__ = ["Components"]


@dataclass(frozen=True, slots=True)
class Components:
    """Threshold and connected components; NumPy arrays through SciPy, CuPy arrays through cupyx.

    The way through CuPy has not been run on a GPU yet.

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
        ndimage = _ndimage(namespace(maps))
        rank = foreground.ndim
        # a plane has no third kind of neighbour
        near = ndimage.generate_binary_structure(rank, min(self.connectivity, rank))
        labels, _ = ndimage.label(foreground > self.threshold, structure=near)
        return within_sizes(labels, min_size=self.min_size, max_size=self.max_size)


def _ndimage(xp: ModuleType) -> ModuleType:
    if xp is np:
        from scipy import ndimage
    else:
        from cupyx.scipy import ndimage
    module: ModuleType = ndimage
    return module
