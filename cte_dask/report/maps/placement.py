"""Placement of the tiles in space, in the units of the target's own metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cte_dask.volume import VolumeError

if TYPE_CHECKING:
    from cte_dask.results.layout import Layout
    from cte_dask.tiles import Shape
    from cte_dask.volume.ngff import Multiscale

__all__ = ["Placement", "placement_of"]

Triple = tuple[float, float, float]
Units = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Placement:
    """Scale and translation of an image of one voxel a tile (z, y, x).

    Parameters
    ----------
    scale
        Extent of a tile.
    translation
        Centre of the first tile.
    voxel
        Extent of a voxel of the target.
    units
        Unit of each axis, as NGFF names it; None where lengths are in voxels or have no unit.
    """

    scale: Triple
    translation: Triple
    voxel: Triple
    units: Units

    def axes(self) -> list[dict[str, str]]:
        """Return the axes as NGFF describes them."""
        return [
            {"name": name, "type": "space", **({"unit": unit} if unit else {})}
            for name, unit in zip("zyx", self.units, strict=True)
        ]

    def first_voxel(self, tile: Shape) -> Triple:
        """Return the centre of the region's first voxel.

        Parameters
        ----------
        tile
            Voxels of a tile (z, y, x).
        """
        z, y, x = (
            centre - (t - 1) / 2 * v
            for centre, t, v in zip(self.translation, tile, self.voxel, strict=True)
        )
        return z, y, x


def placement_of(target: Mapping[str, Any], layout: Layout) -> tuple[Placement, list[str]]:
    """Return the placement of a run's tiles, and notes for the user.

    The target's own metadata and units are used: viewers that ignore units then still lay the maps
    over the target. If the target cannot be opened, the run's record in nanometre takes its place.

    Parameters
    ----------
    target
        The target as ``experiment.yaml`` describes it.
    layout
        The layout of the run's score store.
    """
    try:
        voxel, shift, units = _stated(target)
        notes = []
    except (VolumeError, OSError, LookupError) as error:
        voxel, shift, units = _recorded(layout)
        notes = [f"the target cannot be opened, its recorded voxel size is taken: {error}"]
    tile = layout.blocks.grid.tile
    # NGFF places the centre of a voxel: the first tile's centre is (t - 1) / 2 voxels into it.
    first = [o + (t - 1) / 2 for o, t in zip(layout.origin, tile, strict=True)]
    z, y, x = ((v * t, s + f * v) for v, t, s, f in zip(voxel, tile, shift, first, strict=True))
    return Placement((z[0], y[0], x[0]), (z[1], y[1], x[1]), voxel, units), notes


def _recorded(layout: Layout) -> tuple[Triple, Triple, Units]:
    """Return voxel size, centre of the first voxel and units, in nanometre where it is known."""
    sizes = layout.voxel_size_nm
    z, y, x = (
        (1.0, 0.0, None) if size is None else (size, shift or 0.0, "nanometer")
        for size, shift in zip(sizes, layout.translation_nm, strict=True)
    )
    return (z[0], y[0], x[0]), (z[1], y[1], x[1]), (z[2], y[2], x[2])


def _stated(target: Mapping[str, Any]) -> tuple[Triple, Triple, Units]:
    """Return the same from the target's own metadata."""
    image, level = _image(target)
    if image is None:
        return (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (None, None, None)
    stated = next(entry for entry in image.levels if entry.path == level)
    z, y, x = (
        (scale or 1.0, (scale or 1.0) * offset, unit if scale else None)
        for scale, offset, unit in zip(stated.scale, stated.offset, image.units, strict=True)
    )
    return (z[0], y[0], x[0]), (z[1], y[1], x[1]), (z[2], y[2], x[2])


def _image(target: Mapping[str, Any]) -> tuple[Multiscale | None, str]:
    """Return the image that holds the run's array, and the array's path there.

    None if no group around the array describes it: a plain array has voxels, not lengths.
    """
    import zarr

    from cte_dask.results.experiment_file import read_options
    from cte_dask.volume.ngff import parse_multiscales
    from cte_dask.volume.zarr_source import open_node, strict_store

    store = strict_store(target["url"], read_options(target), None)
    names = [name for name in str(target["path"]).split("/") if name]
    open_node(target["url"], store, "/".join(names))  # raises if the array is gone
    # From the innermost group outwards: the image is the nearest group that lists the array.
    for split in range(len(names) - 1, -1, -1):
        node = open_node(target["url"], store, "/".join(names[:split]))
        images = parse_multiscales(node.attrs.asdict()) if isinstance(node, zarr.Group) else ()
        below = "/".join(names[split:])
        for image in images:
            if any(level.path == below for level in image.levels):
                return image, below
    return None, ""
