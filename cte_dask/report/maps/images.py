"""A group of OME-Zarr images, one a map; where a tile's or a block's voxels lie in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cte_dask.storage.stores import open_store
from cte_dask.volume import VolumeError

if TYPE_CHECKING:
    import zarr

    from cte_dask.report.maps.placement import Placement
    from cte_dask.tiles import BlockGrid, Shape

__all__ = ["ImageGroup", "describe", "new_group"]

SCHEMA = "cte-maps/1"
VERSION = "0.5"


def new_group(where: str, *, overwrite: bool) -> zarr.Group:
    """Create the group of the maps.

    Parameters
    ----------
    where
        Folder or URL.
    overwrite
        Replace maps that exist; nothing else is ever replaced.

    Raises
    ------
    VolumeError
        If something is there that is no group of maps, or maps that may not be replaced.
    """
    import zarr

    store = open_store(where, {}, read_only=False)
    try:
        group = zarr.open_group(store, mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return zarr.create_group(store, zarr_format=3)
    except Exception as error:  # a file, an array, broken metadata
        raise VolumeError(f"{where} exists and cannot be replaced: {error}") from error
    record = group.attrs.asdict().get("cte", {})
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise VolumeError(f"{where} exists and holds no maps: choose another --out")
    if not overwrite:
        raise VolumeError(f"{where} holds maps already: give --overwrite to replace them")
    return zarr.create_group(store, zarr_format=3, overwrite=True)


def describe(group: zarr.Group, series: Sequence[str], score: str, experiment: str) -> None:
    """List the images as a collection (NGFF 0.5, bioformats2raw layout), with their experiment.

    Parameters
    ----------
    group
        The maps.
    series
        Folders of the images.
    score
        What the models' maps show.
    experiment
        Digest of the run's experiment.
    """
    group.attrs.update(
        {
            "ome": {"version": VERSION, "bioformats2raw.layout": 3},
            "cte": {"schema": SCHEMA, "score": score, "experiment": experiment},
        }
    )
    listed = {"ome": {"version": VERSION, "series": list(series)}}
    group.create_group("OME", attributes=listed)


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """Images that lie over a target, of one voxel a tile, or of the target's own voxels.

    Parameters
    ----------
    group
        Where they are written.
    blocks
        Tiles and blocks of the run.
    place
        Where tiles lie.
    """

    group: zarr.Group
    blocks: BlockGrid
    place: Placement

    def of_tiles(self, folder: str, name: str, dtype: str, fill: float) -> Any:
        """Create an image of one voxel a tile, a chunk a block, and return its array."""
        counts = self.blocks.grid.counts
        chunks = tuple(min(p, n) for p, n in zip(self.blocks.per_block, counts, strict=True))
        steps = self.place.scale, self.place.translation
        return self._array(folder, name, dtype, fill, shape=counts, chunks=chunks, steps=steps)

    def of_voxels(self, folder: str, name: str, dtype: str) -> Any:
        """Create an image of the region's own voxels, a chunk a tile, and return its array."""
        grid = self.blocks.grid
        chunks = tuple(min(t, n) for t, n in zip(grid.tile, grid.shape, strict=True))
        steps = self.place.voxel, self.place.first_voxel(grid.tile)
        return self._array(folder, name, dtype, 0, shape=grid.shape, chunks=chunks, steps=steps)

    def box(self, index: int) -> tuple[slice, ...]:
        """Return the tiles of a block as slices of the tile grid."""
        position = _unravelled(index, self.blocks.counts)
        lows = [i * p for i, p in zip(position, self.blocks.per_block, strict=True)]
        ends = zip(lows, self.blocks.per_block, self.blocks.grid.counts, strict=True)
        return tuple(slice(low, min(low + step, stop)) for low, step, stop in ends)

    def _array(
        self,
        folder: str,
        name: str,
        dtype: str,
        fill: float,
        *,
        shape: Shape,
        chunks: tuple[int, ...],
        steps: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> Any:
        scale, translation = steps
        image = self.group.create_group(folder)
        transformations: list[dict[str, Any]] = [
            {"type": "scale", "scale": list(scale)},
            {"type": "translation", "translation": list(translation)},
        ]
        multiscale: dict[str, Any] = {
            "name": name,
            "axes": self.place.axes(),
            "datasets": [{"path": "0", "coordinateTransformations": transformations}],
        }
        image.attrs.update({"ome": {"version": VERSION, "multiscales": [multiscale]}})
        return image.create_array(
            "0",
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            fill_value=fill,
            dimension_names=list("zyx"),
        )


def _unravelled(index: int, counts: Shape) -> Shape:
    z, rest = divmod(index, math.prod(counts[1:]))
    y, x = divmod(rest, counts[2])
    return z, y, x
