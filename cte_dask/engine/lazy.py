"""The scores of a target as a lazy dataset: one Dask task a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.engine.checkpoint import ScoreBlock
from cte_dask.engine.dask_runner import jobs_array
from cte_dask.engine.jobs import Job
from cte_dask.results.block_codec import encoded_votes, vote_columns
from cte_dask.results.dataset import (
    COUNTS,
    DIMS,
    PRECISION_DIMS,
    VOTE_DIMS,
    labelled,
    told_attributes,
    variables_of,
)
from cte_dask.results.layout import Layout, layout_of
from cte_dask.scoring.settings import ScoringOptions, keywords

if TYPE_CHECKING:
    import dask.array
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.models.bank import ModelBank
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.volume import Volume

__all__ = ["blocks_array", "score"]


@keywords(ScoringOptions)
def score(volume: Volume, bank: ModelBank, options: ScoringOptions) -> xr.Dataset:
    """Score every tile of a target under every model, lazily.

    Parameters
    ----------
    volume
        The target, from `open_volume`.
    bank
        The source models, from `load_bank`.
    options
        The fields of `cte_dask.scoring.settings.ScoringOptions`, as keywords: perturbations,
        metrics, tile, seed, repeats, device …

    Returns
    -------
    xarray.Dataset
        Backed by one Dask task a block. Dims model, perturbation, tile; one float64 variable a
        metric (the tile's consistency, NaN where it says nothing), n_union and n_reference
        (voxels), n_voxels and status; ``votes`` (tile, vote): the models' vote patterns, as
        `cte_dask.results.block_codec.votes_in` reads them; of instances ``precision`` (pair, tile);
        coordinates z, y, x (first voxel of the tile in the target)
        and z_nm, y_nm, x_nm (its position, where voxel sizes are known).

    Raises
    ------
    ValueError
        For any bad value, naming it.
    """
    from cte_dask.scoring.resolve import experiment_of

    experiment = experiment_of(volume, bank, options)
    indices = range(len(experiment.blocks))
    layout, blocks = layout_of(experiment), blocks_array(experiment, indices)
    dataset = labelled(layout, _variables(layout, blocks), indices).dataset()
    dataset["votes"] = VOTE_DIMS, _votes(layout, blocks)
    if layout.instances:
        dataset["precision"] = PRECISION_DIMS, _precision(layout, blocks)
    dataset.attrs |= told_attributes(experiment)
    return dataset


def blocks_array(experiment: Experiment, indices: Sequence[int]) -> dask.array.Array:
    """Return the scores of some blocks as a lazy array, one task a block.

    Parameters
    ----------
    experiment
        The run.
    indices
        Numbers of the blocks.

    Returns
    -------
    dask.array.Array
        Objects, (block,): each is a `cte_dask.scoring.block_scores.BlockScores`.
    """
    return jobs_array(ScoreBlock(experiment), [Job(int(index)) for index in indices])


def _tiles(layout: Layout) -> tuple[int, ...]:
    """Return the numbers of tiles of all blocks: one chunk each."""
    return tuple(layout.blocks.tile_count(index) for index in range(len(layout.blocks)))


def _variables(layout: Layout, blocks: dask.array.Array) -> dict[str, Any]:
    """Return what each model's own predictions say, a chunk a block."""
    import dask.array as da

    names = (*layout.metrics, *COUNTS, "status")
    outer = (len(layout.models), len(layout.perturbations), len(names))
    stacked = da.map_blocks(
        _stacked,
        blocks,
        layout,
        names,
        new_axis=[0, 1, 2],
        chunks=(*((n,) for n in outer), _tiles(layout)),
        dtype=np.float64,
        meta=np.empty((0, 0, 0, 0)),
    )
    variables = {name: stacked[:, :, i] for i, name in enumerate(names)}
    variables["status"] = variables["status"].astype(np.int8)
    return {name: (DIMS, array) for name, array in variables.items()}


def _stacked(
    block: NDArray[np.object_], layout: Layout, names: tuple[str, ...]
) -> NDArray[np.float64]:
    """Return variables of a block as one array (model, perturbation, variable, tile)."""
    variables = variables_of(layout, block[0].tiles)
    return np.stack([variables[name] for name in names], axis=2)


def _votes(layout: Layout, blocks: dask.array.Array) -> dask.array.Array:
    """Return the vote patterns of all tiles, uint64 (tile, column)."""
    import dask.array as da

    columns = vote_columns(len(layout.models))
    array: dask.array.Array = da.map_blocks(
        lambda block: encoded_votes(block[0].votes, columns=columns),
        blocks,
        new_axis=[1],
        chunks=(_tiles(layout), (columns,)),
        dtype=np.uint64,
        meta=np.empty((0, 0), np.uint64),
    )
    return array


def _precision(layout: Layout, blocks: dask.array.Array) -> dask.array.Array:
    """Return how precisely objects match, float64 (pair, tile)."""
    import dask.array as da

    pairs = len(pairs_of(len(layout.models)))
    array: dask.array.Array = da.map_blocks(
        lambda block: block[0].precision,
        blocks,
        new_axis=[0],
        chunks=((pairs,), _tiles(layout)),
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    return array
