"""Tile scores as an xarray Dataset: lazily from a volume and a bank, or read from a score store.

A run's tile scores, a block at a time: what a summary of any size is gathered from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency import BANK_METRICS, metric
from cte_dask.results.bank_metrics import bank_variables
from cte_dask.results.layout import Layout
from cte_dask.results.store import DONE, Scores
from cte_dask.scoring.bank_overlaps import overlap_rows
from cte_dask.scoring.score_tiles import COLUMNS, STATUS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.consistency.bank_agreement import Similarity
    from cte_dask.results.store import Scores
    from cte_dask.scoring.experiment import Experiment

__all__ = ["blocks_of", "mean_of_draws", "read_scores", "tile_scores", "told_attributes"]

DIMS = ("model", "perturbation", "tile")
COUNTED = ("n_union", "n_reference", "n_voxels", "status")


def told_attributes(experiment: Experiment) -> dict[str, Any]:
    """Return what a ranking tells of an experiment beside its numbers."""
    return {
        "excluded": dict(experiment.excluded),
        "notes": {c.name: c.note for c in experiment.candidates if c.note},
        "seed": experiment.seed,
        "combine": experiment.combine,
    }


def read_scores(scores: Scores) -> xr.Dataset:
    """Return the tile scores that a store holds so far, as `score` would give them.

    Parameters
    ----------
    scores
        The store of a run, from `open_scores`.

    Returns
    -------
    xarray.Dataset
        In memory; tiles of blocks that are done.
    """
    indices = [int(i) for i in np.flatnonzero(scores.done() != DONE["missing"])]
    layout = scores.layout
    shape = (len(layout.models), len(layout.perturbations) * layout.repeats, len(COLUMNS), 0)
    values = [np.empty(shape), *scores.each(indices)]
    overlaps = None
    if layout.bank_metrics:
        none = np.empty((overlap_rows(len(layout.models)), 0))
        rows = (scores.overlaps(i) for i in indices)
        overlaps = np.concatenate([none, *(r for r in rows if r is not None)], axis=-1)
    dataset = tile_scores(layout, np.concatenate(values, axis=-1), indices, overlaps=overlaps)
    dataset.attrs |= {"first": list(scores.first)} if scores.first else {}
    return dataset


def tile_scores(
    layout: Layout,
    values: Any,
    indices: Sequence[int],
    *,
    overlaps: Any | None = None,
    similarity: Similarity | None = None,
) -> xr.Dataset:
    """Turn statistics into consistencies.

    Parameters
    ----------
    layout
        What the numbers mean.
    values
        float64 (model, draw, column, tile), NumPy or Dask.
    indices
        The blocks that the tiles belong to, in order.
    overlaps
        float64 (row, tile), as of `cte_dask.scoring.bank_overlaps.overlap_rows`; needed for metrics
        of the whole bank.
    similarity
        Whose word counts how much in `agreement`; by default what these tiles tell.

    Returns
    -------
    xarray.Dataset
        See `score`; with overlaps also ``overlap`` (pair, tile), those of the models. With several
        repeats, a tile's consistency is the mean over its draws (eq. 3 of Talks & Kreshuk, arXiv
        2503.00450) with NaN draws left out; counts are the first draw's.
    """
    import xarray as xr

    if layout.bank_metrics and overlaps is None:
        raise ValueError(f"{layout.bank_metrics[0]} needs the overlaps of the bank's models")
    names = (*(m for m in layout.metrics if m not in BANK_METRICS), *COUNTED)
    derived = _mapped(values, layout, len(names))
    variables: dict[str, Any] = {n: (DIMS, derived[:, :, i]) for i, n in enumerate(names)}
    if overlaps is not None:
        variables |= bank_variables(layout, values, overlaps, similarity)
    return xr.Dataset(
        variables,
        coords={
            "model": list(layout.models),
            "perturbation": list(layout.perturbations),
            **_positions(layout, indices),
        },
        attrs={"primary": layout.primary, "metrics": list(layout.metrics)},
    )


def _mapped(values: Any, layout: Layout, variables: int) -> Any:
    """Derive the variables, chunk by chunk where the values are lazy."""
    if isinstance(values, np.ndarray):
        return _derived(values, layout)
    models, _, _, tiles = values.chunks
    return values.map_blocks(
        _derived,
        layout,
        chunks=(models, (len(layout.perturbations),), (variables,), tiles),
        dtype=np.float64,
        meta=np.empty((0, 0, 0, 0)),
    )


def _derived(values: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Turn (model, draw, column, tile) into (model, perturbation, variable, tile)."""
    models, _, columns, tiles = values.shape
    draws = values.reshape(models, len(layout.perturbations), layout.repeats, columns, tiles)
    table = {name: draws[:, :, :, i] for i, name in enumerate(COLUMNS)}
    scored = table["status"] == STATUS["scored"]
    consistencies = [
        mean_of_draws(np.where(scored, metric(name)(table), np.nan))
        for name in layout.metrics
        if name not in BANK_METRICS
    ]
    for consistency in consistencies:  # a prediction agrees with itself: that says nothing
        consistency[:, [p == "none" for p in layout.perturbations]] = np.nan
    counted = [table[name][:, :, 0] for name in COUNTED]
    return np.stack([*consistencies, *counted], axis=2)


def mean_of_draws(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the repeats (axis 2), NaN left out, NaN where all are."""
    valid = ~np.isnan(draws)
    count = valid.sum(axis=2)
    total = np.where(valid, draws, 0.0).sum(axis=2)
    mean: NDArray[np.float64] = total / np.where(count > 0, count, np.nan)
    return mean


def _positions(layout: Layout, indices: Sequence[int]) -> dict[str, Any]:
    blocks = layout.blocks
    tiles = [t for i in indices for t in blocks.block_at(i).tiles]
    starts = np.array([t.start for t in tiles], np.int64).reshape(-1, 3)
    shapes = np.array([t.shape for t in tiles], np.int64).reshape(-1, 3)
    coords: dict[str, Any] = {"tile": np.array([t.index for t in tiles], np.int64)}
    for axis, name in enumerate("zyx"):
        coords[name] = ("tile", starts[:, axis] + layout.origin[axis])
        coords[f"{name}_extent"] = ("tile", shapes[:, axis])
        size, offset = layout.voxel_size_nm[axis], layout.translation_nm[axis]
        if size is not None and offset is not None:
            coords[f"{name}_nm"] = ("tile", (starts[:, axis] + layout.origin[axis]) * size + offset)
    block = np.repeat(np.asarray(indices, np.int64), [blocks.tile_count(i) for i in indices])
    return {**coords, "block": ("tile", block)}


def blocks_of(scores: Scores, score: str) -> Iterator[tuple[int, xr.DataArray, xr.DataArray]]:
    """Yield one score of every block that a store holds.

    Parameters
    ----------
    scores
        The score store.
    score
        ``metric@perturbation``.

    Yields
    ------
    tuple
        Number of the block, the values (model, tile), NaN where a tile says nothing, and their
        status (model, tile).
    """
    metric, perturbation = score.split("@", 1)
    layout = replace(scores.layout, metrics=(metric,))
    similarity = None
    if layout.bank_metrics:
        # whose word counts how much is told by all tiles, not by those of a block
        from cte_dask.results.bank_metrics import similarity_in

        similarity = similarity_in(read_scores(scores))
    for index in map(int, np.flatnonzero(scores.done() != DONE["missing"])):
        overlaps = scores.overlaps(index) if layout.bank_metrics else None
        data = tile_scores(
            layout, scores.block(index), [index], overlaps=overlaps, similarity=similarity
        ).sel(perturbation=perturbation)
        yield index, data[metric], data.status
