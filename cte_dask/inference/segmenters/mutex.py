"""Objects from affinities: the mutex watershed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cte_dask.arrays import Array, to_numpy
from cte_dask.inference.segmenters.array_functions import back
from cte_dask.inference.segmenters.bioimage_cpp import library
from cte_dask.inference.segmenters.maps import check_fraction, check_sizes, checked_maps
from cte_dask.inference.segmenters.sizes import within_sizes

__all__ = ["Mutex"]


@dataclass(frozen=True, kw_only=True)
class Mutex:
    """Mutex watershed on affinities (Wolf et al. 2020, arXiv 1904.12654), on the host.

    Channel i is the probability that a voxel and the one `offsets[i]` away lie in one object. A
    foreground channel may follow; without one every voxel belongs to an object. Offsets of one step
    through a face attract by the probability, longer ones repel by 1 minus the probability.

    Parameters
    ----------
    offsets
        One offset (y, x) or (z, y, x) a channel; those of one step first.
    strides
        Step along each axis between the voxels whose longer offsets are used: larger is faster and
        coarser; None uses all voxels.
    foreground_threshold
        A voxel is foreground if its probability is strictly greater, compared in the map's dtype.
    min_size, max_size
        Objects of fewer or of more voxels become background; None sets no upper limit.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    offsets: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...] | None = None
    foreground_threshold: float = 0.5
    min_size: int = 0
    max_size: int | None = None

    optional: ClassVar[tuple[str, ...]] = ("foreground",)

    def __post_init__(self) -> None:
        check_fraction("foreground_threshold", self.foreground_threshold)
        check_sizes(self.min_size, self.max_size)
        offsets = tuple(tuple(int(step) for step in offset) for offset in self.offsets)
        object.__setattr__(self, "offsets", offsets)
        lengths = [sum(map(abs, offset)) for offset in offsets]
        ranks = {len(offset) for offset in offsets}
        if len(ranks) != 1 or not ranks <= {2, 3} or lengths != sorted(lengths, key=_is_long):
            raise ValueError(
                f"offsets {offsets} must all be (y, x) or all (z, y, x), those of one step first"
            )
        if min(lengths) != 1:
            raise ValueError(f"offsets {offsets} need one of a single step, none may be zero")
        if self.strides is not None and (
            {len(self.strides)} != ranks or not all(s >= 1 for s in self.strides)
        ):
            raise ValueError(f"strides {self.strides} must be one positive number an axis, or None")

    @property
    def channels(self) -> tuple[str, ...]:
        """One affinity an offset, then the foreground."""
        return *(f"affinity {offset}" for offset in self.offsets), "foreground"

    def __call__(self, maps: Array) -> Array:
        """Segment one frame; see `cte_dask.inference.segmenters.Segmenter`."""
        channels = checked_maps(maps, self.channels, self.optional)
        if channels[0].ndim != len(self.offsets[0]):
            raise ValueError(f"maps of shape {maps.shape} do not fit offsets {self.offsets}")
        # the library takes the number of attractive offsets, which therefore come first
        n_attractive = sum(not _is_long(sum(map(abs, offset))) for offset in self.offsets)
        weights = maps[: len(self.offsets)].astype(np.float32)
        weights[n_attractive:] = 1 - weights[n_attractive:]
        has_foreground = len(channels) > len(self.offsets)
        mask = channels[-1] > self.foreground_threshold if has_foreground else None
        inside = None if mask is None else to_numpy(mask)
        labels = library().segmentation.mutex_watershed(
            to_numpy(weights), self.offsets, n_attractive, strides=self.strides, mask=inside
        )
        objects = back(maps, labels.astype(np.int32))
        return within_sizes(objects, min_size=self.min_size, max_size=self.max_size)


def _is_long(length: int) -> bool:
    return length > 1
