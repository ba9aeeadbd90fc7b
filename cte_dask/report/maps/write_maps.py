"""Maps of a run as OME-Zarr images that lie over the target: consistency, and the consensus.

One voxel is one tile; of the consensus, if wanted, one voxel of the target. Maps are written a
block of the run at a time, so that a target of any size needs no more memory than a small one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.degenerate import DISTRUSTED
from cte_dask.consistency.score_names import ScoreName
from cte_dask.engine.clusters import ClusterOptions
from cte_dask.ranking.consensus import Consensus, consensus_in
from cte_dask.report.maps.consensus_voxels import CONSENSUS, UNCERTAINTY, write_voxels
from cte_dask.report.maps.images import ImageGroup, describe, new_group
from cte_dask.report.maps.placement import placement_of
from cte_dask.report.maps.viewers import BYTE_SHADER, FRACTION_SHADER, write_guides
from cte_dask.results.dataset import blocks_of
from cte_dask.results.experiment_file import reopen
from cte_dask.results.run_folder import RunFolder
from cte_dask.results.store import DONE
from cte_dask.storage.files import check_apart
from cte_dask.storage.stores import absolute

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.results.run_folder import FinishedRun

__all__ = ["WINNER", "folders", "write_maps"]

WINNER = "winner"


def write_maps(
    run: str,
    out: str | None = None,
    *,
    score: str | None = None,
    voxels: bool = False,
    cluster: ClusterOptions = ClusterOptions(cluster="none"),  # noqa: B008 - frozen
    target_url: str | None = None,
    maps_url: str | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write images of each model's consistency, of who wins where, and of what the bank sees.

    Parameters
    ----------
    run
        Folder or URL that `cte rank` wrote.
    out
        Folder or URL of the maps; by default ``maps.zarr`` in the run.
    score
        ``metric@perturbation``; by default the one that ranks.
    voxels
        Whether to write the consensus at every voxel: its models predict the target once more.
    cluster
        Where these models run; see `cte_dask.engine.clusters.open_cluster`.
    target_url, maps_url
        URLs at which a browser finds target and maps, for Neuroglancer; by default their own.
    overwrite
        Replace maps that exist.
    tell
        Receives a line of progress now and then.

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
    where there is none. ``consensus`` is the fraction of foreground that the fitted truth expects
    in a tile, ``uncertainty`` one minus the F1 that it expects of itself
    (`cte_dask.ranking.consensus`), float32, NaN where not known; with `voxels` they are uint8 at
    the target's voxels, 255 for 1: the probability of foreground, and how near it is to one half. A
    voxel's centre is that of a whole tile, in the target's own units (NGFF 0.5,
    https://ngff.openmicroscopy.org/0.5/); where the last tile along an axis is cut, its voxel
    reaches over the target's edge.
    """
    folder = RunFolder(run)
    finished = folder.finished()
    layout = finished.scores.layout
    mapped = layout.primary if score is None else _checked(score, finished)
    place, notes = placement_of(finished.experiment["target"], layout)
    consensus, why = consensus_in(finished)
    if consensus is None and voxels:
        raise ValueError(why)
    if out is not None:
        check_apart(out, finished.experiment["target"]["url"])
    where = absolute(folder.maps_url if out is None else out)
    group = new_group(where, overwrite=overwrite)
    images = ImageGroup(group, layout.blocks, place)
    of_models = _write_consistency(finished, images, mapped)
    layers = [WINNER, *([] if consensus is None else (CONSENSUS, UNCERTAINTY))]
    if consensus is not None and not voxels:
        _write_consensus(consensus, images)
    describe(group, [*of_models.values(), *layers], str(mapped), layout.experiment)
    if consensus is not None and voxels:
        for name, text in ((CONSENSUS, "consensus of the bank"), (UNCERTAINTY, "its uncertainty")):
            images.of_voxels(name, text, "uint8")
        blocks = np.flatnonzero(finished.scores.done() != DONE["missing"]).tolist()
        write_voxels(reopen(run), consensus, where, blocks, cluster=cluster, tell=tell)
    guides = write_guides(
        where,
        finished.experiment["target"],
        of_models,
        place,
        bank=dict.fromkeys(layers[1:], BYTE_SHADER if voxels else FRACTION_SHADER),
        intensity=finished.experiment["intensity"],
        target_url=target_url,
        maps_url=maps_url,
    )
    notes = [*notes, *([why] if why else []), *guides["notes"]]
    return {"maps": where, "images": of_models, **guides, "notes": notes}


def _write_consistency(run: FinishedRun, images: ImageGroup, mapped: ScoreName) -> dict[str, str]:
    """Write an image a model, and the winner; return each model's folder."""
    ranked = [m for m in run.ranking["models"] if m["rank"] is not None]
    names = [m["name"] for m in ranked]
    fair = np.array([not DISTRUSTED & set(m["flags"]) for m in ranked], bool)
    folder_of = folders(names)
    arrays = [images.of_tiles(folder_of[name], name, "float32", np.nan) for name in names]
    winner = images.of_tiles(WINNER, "most consistent model, by rank", "uint16", 0)
    for index, scored, _ in blocks_of(run.scores, mapped):
        values = scored.sel(model=names).to_numpy()
        box = images.box(index)
        extent = [s.stop - s.start for s in box]
        for array, row in zip(arrays, values, strict=True):
            array[box] = row.reshape(extent).astype(np.float32)
        winner[box] = _winners(values, fair).reshape(extent)
    return folder_of


def _write_consensus(consensus: Consensus, images: ImageGroup) -> None:
    """Write what the bank sees of each tile, and how surely."""
    counts = images.blocks.grid.counts
    for name, text, values in (
        (CONSENSUS, "foreground that the bank sees", consensus.foreground),
        (UNCERTAINTY, "uncertainty of what the bank sees", consensus.uncertainty),
    ):
        tiles = np.full(int(np.prod(counts)), np.nan, np.float32)
        tiles[consensus.tile] = values
        images.of_tiles(name, text, "float32", np.nan)[:] = tiles.reshape(counts)


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
    used = {WINNER, CONSENSUS, UNCERTAINTY, "ome"}
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
