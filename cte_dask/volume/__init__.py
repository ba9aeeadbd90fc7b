"""Targets: opened as a small recipe, read by box, described by their intensities.

Importing this package imports neither zarr nor torch nor dask.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cte_dask.errors import VolumeError, VolumeReadError
    from cte_dask.volume.opening import open_volume
    from cte_dask.volume.statistics import IntensityStatistics, intensity_statistics
    from cte_dask.volume.volume import Volume
    from cte_dask.volume.voxel_size import VoxelSize
    from cte_dask.volume.writer import write_ome_zarr

__all__ = [
    "IntensityStatistics",
    "Volume",
    "VolumeError",
    "VolumeReadError",
    "VoxelSize",
    "intensity_statistics",
    "open_volume",
    "write_ome_zarr",
]

_HOME = {
    "IntensityStatistics": "cte_dask.volume.statistics",
    "Volume": "cte_dask.volume.volume",
    "VolumeError": "cte_dask.errors",
    "VolumeReadError": "cte_dask.errors",
    "VoxelSize": "cte_dask.volume.voxel_size",
    "intensity_statistics": "cte_dask.volume.statistics",
    "open_volume": "cte_dask.volume.opening",
    "write_ome_zarr": "cte_dask.volume.writer",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
