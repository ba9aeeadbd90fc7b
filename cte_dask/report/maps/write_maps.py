"""Consistency maps: a run's tile scores as OME-Zarr images that lie over the target.

One voxel is one tile. Maps are written a block of the run at a time, so that a target of any size
needs no more memory than a small one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.degenerate import EVERYTHING, NOTHING
from cte_dask.consistency.score_names import ScoreName
from cte_dask.report.maps.placement import Placement, placement_of
from cte_dask.report.maps.viewers import write_guides
from cte_dask.results.dataset import blocks_of
from cte_dask.results.run_folder import RunFolder
from cte_dask.storage.stores import absolute, open_store
from cte_dask.tiles import BlockGrid, Shape
from cte_dask.volume import VolumeError

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

    from cte_dask.results.run_folder import FinishedRun

__all__ = ["WINNER", "folders", "write_maps"]

SCHEMA = "cte-maps/1"
WINNER = "winner"
VERSION = "0.5"


def write_maps(
    run: str,
    out: str | None = None,
    *,
    score: str | None = None,
    target_url: str | None = None,
    maps_url: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write one image a model of its tile consistencies, and one of which model wins each tile.

    Parameters
    ----------
    run
        Folder or URL that `cte rank` wrote.
    out
        Folder or URL of the maps; by default ``maps.zarr`` in the run.
    score
        ``metric@perturbation``; by default the one that ranks.
    target_url, maps_url
        URLs at which a browser finds target and maps, for Neuroglancer; by default their own.
    overwrite
        Replace maps that exist.

    Returns
    -------
    dict
        ``maps`` (folder or URL), ``images`` (model name → its folder), ``napari`` (a command),
        ``neuroglancer`` (file of its state), ``link`` (a URL that opens it) and ``notes``.

    Raises
    ------
    FileNotFoundError
        If there is no finished run.
    ValueError
        If the run has no such score, or something else is at `out`.

    Notes
    -----
    Each model's image is float32 (z, y, x) in [0, 1], NaN where the tile says nothing or was not
    scored. ``winner`` is uint16, the rank of the most consistent model that is not degenerate, 0
    where there is none. A voxel's centre is that of a whole tile, in the target's own units
    (NGFF 0.5, https://ngff.openmicroscopy.org/0.5/); where the last tile along an axis is cut, its
    voxel reaches over the target's edge.
    """
    folder = RunFolder(run)
    finished = folder.finished()
    layout = finished.scores.layout
    mapped = layout.primary if score is None else _checked(score, finished)
    place, notes = placement_of(finished.experiment["target"], layout)
    ranked = [m for m in finished.ranking["models"] if m["rank"] is not None]
    names = [m["name"] for m in ranked]
    fair = np.array([not {NOTHING, EVERYTHING} & set(m["flags"]) for m in ranked], bool)
    where = absolute(folder.maps_url if out is None else out)
    group = _new_group(where, overwrite=overwrite)
    images = folders(names)
    maps = _Maps(group, layout.blocks, place)
    arrays = [maps.array(images[name], name, "float32", np.nan) for name in names]
    winner = maps.array(WINNER, "most consistent model, by rank", "uint16", 0)
    for index, scored, _ in blocks_of(finished.scores, mapped):
        values = scored.sel(model=names).to_numpy()
        box = maps.box(index)
        for array, row in zip(arrays, values, strict=True):
            array[box] = row.reshape([s.stop - s.start for s in box]).astype(np.float32)
        winner[box] = _winners(values, fair).reshape([s.stop - s.start for s in box])
    _describe(group, [*images.values(), WINNER], str(mapped), layout.experiment)
    result = {"maps": where, "images": images, "notes": notes}
    guides = write_guides(
        where,
        finished.experiment["target"],
        images,
        place,
        intensity=finished.experiment["intensity"],
        target_url=target_url,
        maps_url=maps_url,
    )
    return {**result, **guides, "notes": [*notes, *guides["notes"]]}


def _checked(score: str, run: FinishedRun) -> ScoreName:
    scores = run.scores.layout.scores
    if score not in map(str, scores):
        raise ValueError(f"the run has no score {score!r}: it has {', '.join(map(str, scores))}")
    return ScoreName.parse(score)


def folders(names: Sequence[str]) -> dict[str, str]:
    """Return a folder for each model: its name in characters that file systems and URLs take.

    Examples
    --------
    >>> folders(["vnc unet", "vnc/unet", "winner"])
    {'vnc unet': 'vnc_unet', 'vnc/unet': 'vnc_unet-2', 'winner': 'winner-2'}
    """
    used = {WINNER, "ome"}
    folder_of = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"
        folder, number = plain, 1
        while folder.lower() in used:  # some file systems ignore case
            number += 1
            folder = f"{plain}-{number}"
        used.add(folder.lower())
        folder_of[name] = folder
    return folder_of


def _winners(values: NDArray[np.float64], fair: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return the rank of the most consistent model of each tile; equal ones: the better ranked."""
    allowed = np.where(fair[:, None] & ~np.isnan(values), values, -np.inf)
    won = np.isfinite(allowed).any(axis=0)
    # argmax takes the first of equal values, and rows are in rank order.
    return np.where(won, allowed.argmax(axis=0) + 1, 0).astype(np.uint16)


def _new_group(where: str, *, overwrite: bool) -> zarr.Group:
    """Create the group; only maps are replaced, and only if the user asks for it."""
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


@dataclass(frozen=True, slots=True)
class _Maps:
    """Writer of images of one voxel a tile, all in one geometry."""

    group: zarr.Group
    blocks: BlockGrid
    place: Placement

    def array(self, folder: str, name: str, dtype: str, fill: float) -> Any:
        """Create one image, a chunk a block, and return its array."""
        image = self.group.create_group(folder)
        steps: list[dict[str, Any]] = [
            {"type": "scale", "scale": list(self.place.scale)},
            {"type": "translation", "translation": list(self.place.translation)},
        ]
        multiscale: dict[str, Any] = {
            "name": name,
            "axes": self.place.axes(),
            "datasets": [{"path": "0", "coordinateTransformations": steps}],
        }
        image.attrs.update({"ome": {"version": VERSION, "multiscales": [multiscale]}})
        counts = self.blocks.grid.counts
        return image.create_array(
            "0",
            shape=counts,
            chunks=tuple(min(p, n) for p, n in zip(self.blocks.per_block, counts, strict=True)),
            dtype=dtype,
            fill_value=fill,
            dimension_names=list("zyx"),
        )

    def box(self, index: int) -> tuple[slice, ...]:
        """Return the tiles of a block as slices of the tile grid."""
        position = _unravelled(index, self.blocks.counts)
        lows = [i * p for i, p in zip(position, self.blocks.per_block, strict=True)]
        ends = zip(lows, self.blocks.per_block, self.blocks.grid.counts, strict=True)
        return tuple(slice(low, min(low + step, stop)) for low, step, stop in ends)


def _unravelled(index: int, counts: Shape) -> Shape:
    z, rest = divmod(index, math.prod(counts[1:]))
    y, x = divmod(rest, counts[2])
    return z, y, x


def _describe(group: zarr.Group, series: Sequence[str], score: str, experiment: str) -> None:
    """List the images as a collection (NGFF 0.5, bioformats2raw layout), with their experiment."""
    group.attrs.update(
        {
            "ome": {"version": VERSION, "bioformats2raw.layout": 3},
            "cte": {"schema": SCHEMA, "score": score, "experiment": experiment},
        }
    )
    listed = {"ome": {"version": VERSION, "series": list(series)}}
    group.create_group("OME", attributes=listed)
