"""Tile scores of a store, as plain arrays and as an xarray Dataset: of all, or a block at a time.

The last is what a summary of any size is gathered from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.score_names import ScoreName
from cte_dask.consistency.vote_patterns import joined as join_votes
from cte_dask.consistency.vote_patterns import no_votes
from cte_dask.results.block_codec import encoded_votes
from cte_dask.results.layout import DONE, Layout
from cte_dask.results.score_table import ScoreTable
from cte_dask.scoring.block_scores import (
    TileScores,
    joined,
    mean_of_perturbations,
    unscored,
)

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.results.store import Scores
    from cte_dask.scoring.experiment import Experiment

__all__ = [
    "COUNTS",
    "DIMS",
    "PRECISION_DIMS",
    "VOTE_DIMS",
    "blocks_of",
    "consistency_of",
    "dataset_of",
    "labelled",
    "mean_consistency",
    "read_scores",
    "read_table",
    "table_of",
    "told_attributes",
    "variables_of",
]

DIMS = ("model", "perturbation", "tile")
VOTE_DIMS = ("tile", "vote")
PRECISION_DIMS = ("pair", "tile")
COUNTS = ("n_union", "n_reference", "n_voxels")
"""Statistics that are variables of their own."""


def told_attributes(experiment: Experiment) -> dict[str, Any]:
    """Return what a ranking tells of an experiment beside its numbers."""
    return {
        "excluded": dict(experiment.excluded),
        "notes": {c.name: c.note for c in experiment.candidates if c.note},
        "blind": [c.name for c in experiment.candidates if c.blind],
        "unsteady": [c.name for c in experiment.candidates if not c.steady],
        "seed": experiment.seed,
        "rule": experiment.rule,
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
    return read_table(scores).dataset()


def read_table(scores: Scores) -> ScoreTable:
    """Return what `read_scores` does, as plain arrays.

    Parameters
    ----------
    scores
        The store of a run, from `open_scores`.
    """
    indices = [int(i) for i in np.flatnonzero(scores.done() != DONE["missing"])]
    layout = scores.layout
    models, draws = len(layout.models), len(layout.perturbations) * layout.repeats
    tiles = joined([unscored((models, draws, 0), "absent"), *scores.each(indices)])
    table = table_of(layout, tiles, indices)
    tables = join_votes([no_votes(0, models), *map(scores.votes, indices)])
    bank: dict[str, Any] = {"votes": (VOTE_DIMS, encoded_votes(tables))}
    if layout.instances:
        none = np.empty((models * (models - 1) // 2, 0))
        rows = np.concatenate([none, *map(scores.precision, indices)], axis=-1)
        bank["precision"] = PRECISION_DIMS, rows
    first = {"first": list(scores.first)} if scores.first else {}
    return replace(table, variables={**table.variables, **bank}, attrs=table.attrs | first)


def dataset_of(layout: Layout, tiles: TileScores, indices: Sequence[int]) -> xr.Dataset:
    """Turn statistics into consistencies.

    Parameters
    ----------
    layout
        What the numbers mean.
    tiles
        The numbers, (model, draw, tile).
    indices
        The blocks that the tiles belong to, in order.

    Returns
    -------
    xarray.Dataset
        See `cte_dask.score`, without what the models say of each other. Several repeats are
        averaged (`cte_dask.scoring.block_scores.TileScores.consistency`); counts are the first
        draw's.
    """
    return table_of(layout, tiles, indices).dataset()


def table_of(layout: Layout, tiles: TileScores, indices: Sequence[int]) -> ScoreTable:
    """Return what `dataset_of` does, as plain arrays.

    Parameters
    ----------
    layout, tiles, indices
        As `dataset_of` takes them.
    """
    variables = {name: (DIMS, values) for name, values in variables_of(layout, tiles).items()}
    return labelled(layout, variables, indices)


def labelled(layout: Layout, variables: Mapping[str, Any], indices: Sequence[int]) -> ScoreTable:
    """Return variables as a table that knows its models, its perturbations and its tiles.

    Parameters
    ----------
    layout
        What the numbers mean.
    variables
        For each name its dimensions and array; NumPy or lazy.
    indices
        The blocks that the tiles belong to, in order.
    """
    attrs = {
        "primary": str(layout.primary),
        "rule": layout.rule,
        "metrics": list(layout.metrics),
    }
    places = _positions(layout, indices)
    return ScoreTable(layout.models, layout.perturbations, variables, places, attrs)


def variables_of(layout: Layout, tiles: TileScores) -> dict[str, NDArray[Any]]:
    """Return what each model's own predictions say, by name: (model, perturbation, tile).

    Parameters
    ----------
    layout
        What the numbers mean.
    tiles
        The numbers, (model, draw, tile).

    Returns
    -------
    dict
        Consistency of each metric, float64; `COUNTS`, float64, and ``status``, int8, of the first
        draw.
    """
    repeats = layout.repeats
    variables = {name: tiles.consistency(name, repeats=repeats) for name in layout.metrics}
    first = tiles[:, ::repeats]
    return {**variables, **{n: first.statistics[n] for n in COUNTS}, "status": first.status}


def consistency_of(layout: Layout, tiles: TileScores, score: ScoreName) -> NDArray[np.float64]:
    """Return one score of some tiles, (model, tile): the mean over its draws.

    Parameters
    ----------
    layout
        What the numbers mean.
    tiles
        The numbers, (model, draw, tile).
    score
        One of a model's own predictions.
    """
    draws = tiles[:, layout.draws(score.perturbation)]
    return draws.consistency(score.metric, repeats=layout.repeats)[:, 0]


def mean_consistency(layout: Layout, tiles: TileScores) -> NDArray[np.float64]:
    """Return each model's consistency on each tile over all perturbations, (model, tile).

    Parameters
    ----------
    layout
        What the numbers mean.
    tiles
        The numbers, (model, draw, tile).
    """
    values = tiles.consistency(layout.primary.metric, repeats=layout.repeats)
    first = tiles[:, :: layout.repeats]
    return mean_of_perturbations(values, first.status)


def _positions(layout: Layout, indices: Sequence[int]) -> dict[str, Any]:
    blocks = layout.blocks
    tiles = [t for i in indices for t in blocks.block_at(i).tiles]
    starts = np.array([t.start for t in tiles], np.int64).reshape(-1, 3)
    shapes = np.array([t.shape for t in tiles], np.int64).reshape(-1, 3)
    coords: dict[str, Any] = {"tile": (("tile",), np.array([t.index for t in tiles], np.int64))}
    for axis, name in enumerate("zyx"):
        coords[name] = (("tile",), starts[:, axis] + layout.origin[axis])
        coords[f"{name}_extent"] = (("tile",), shapes[:, axis])
        size, offset = layout.voxel_size_nm[axis], layout.translation_nm[axis]
        if size is not None and offset is not None:
            first = (starts[:, axis] + layout.origin[axis]) * size + offset
            coords[f"{name}_nm"] = (("tile",), first)
    block = np.repeat(np.asarray(indices, np.int64), [blocks.tile_count(i) for i in indices])
    return {**coords, "block": (("tile",), block)}


def blocks_of(scores: Scores, score: ScoreName) -> Iterator[tuple[int, xr.DataArray, xr.DataArray]]:
    """Yield one score of every block that a store holds.

    Parameters
    ----------
    scores
        The score store.
    score
        One that the statistics of the store give.

    Yields
    ------
    tuple
        Number of the block, the values (model, tile), NaN where a tile says nothing, and their
        status (model, tile).
    """
    layout = replace(scores.layout, metrics=(score.metric,))
    for index in map(int, np.flatnonzero(scores.done() != DONE["missing"])):
        data = dataset_of(layout, scores.block(index), [index])
        data = data.sel(perturbation=score.perturbation)
        yield index, data[score.metric], data.status
