"""The scores of a target as a lazy dataset: one Dask task a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.score_names import UNPERTURBED
from cte_dask.engine.checkpoint import score_job
from cte_dask.engine.jobs import Job
from cte_dask.results.bank_metrics import bank_variables
from cte_dask.results.block_codec import COLUMNS, decoded, encoded
from cte_dask.results.dataset import COUNTS, DIMS, labelled, told_attributes, variables_of
from cte_dask.results.layout import Layout, layout_of
from cte_dask.scoring.block_scores import overlap_rows
from cte_dask.scoring.score_block import score_block
from cte_dask.scoring.settings import ScoringOptions, keywords

if TYPE_CHECKING:
    import dask.array
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.models.bank import ModelBank
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.volume import Volume

__all__ = ["blocks_array", "overlaps_array", "score"]


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
        metric (the tile's consistency, NaN where it says nothing; agreement and consensus lie at
        the perturbation ``none``, all others at every other one), n_union and n_reference
        (voxels), n_voxels and status; coordinates z, y, x (first voxel of the tile in the target)
        and z_nm, y_nm, x_nm (its position, where voxel sizes are known).

    Raises
    ------
    ValueError
        For any bad value, naming it.
    """
    from cte_dask.scoring.resolve import experiment_of

    experiment = experiment_of(volume, bank, options)
    indices = range(len(experiment.blocks))
    if experiment.bank_metrics:
        values, overlaps = overlaps_array(experiment, indices)
    else:
        values, overlaps = blocks_array(experiment, indices), None
    layout = layout_of(experiment)
    variables = _variables(layout, values)
    if overlaps is not None:
        variables |= _bank_variables(layout, values, overlaps)
    dataset = labelled(layout, variables, indices)
    dataset.attrs |= told_attributes(experiment)
    return dataset


def _variables(layout: Layout, values: dask.array.Array) -> dict[str, Any]:
    """Return what each model's own predictions say, a chunk a block."""
    import dask.array as da

    names = (*layout.own_metrics, *COUNTS, "status")
    models, _, _, tiles = values.chunks
    stacked = da.map_blocks(
        _stacked,
        values,
        layout,
        names,
        chunks=(models, (len(layout.perturbations),), (len(names),), tiles),
        dtype=np.float64,
        meta=np.empty((0, 0, 0, 0)),
    )
    variables = {name: stacked[:, :, i] for i, name in enumerate(names)}
    variables["status"] = variables["status"].astype(np.int8)
    return {name: (DIMS, array) for name, array in variables.items()}


def _stacked(
    values: NDArray[np.float64], layout: Layout, names: tuple[str, ...]
) -> NDArray[np.float64]:
    """Return variables of a chunk as one array (model, perturbation, variable, tile)."""
    variables = variables_of(layout, decoded(values))
    return np.stack([variables[name] for name in names], axis=2)


def _bank_variables(
    layout: Layout, values: dask.array.Array, overlaps: dask.array.Array
) -> dict[str, Any]:
    """Return what metrics of the whole bank say, in one task: votes are of all tiles."""
    import dask.array as da

    reference = values[:, layout.draws(UNPERTURBED).start]
    arrays = da.blockwise(
        _stacked_bank,
        "vmpt",
        reference.rechunk(-1),
        "mct",
        overlaps.rechunk(-1),
        "rt",
        layout=layout,
        new_axes={"v": len(layout.bank_metrics), "p": len(layout.perturbations)},
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0, 0, 0, 0)),
    )
    variables: dict[str, Any] = {n: (DIMS, arrays[i]) for i, n in enumerate(layout.bank_metrics)}
    return {**variables, "overlap": (("pair", "tile"), overlaps[: -len(layout.models)])}


def _stacked_bank(
    reference: NDArray[np.float64], overlaps: NDArray[np.float64], *, layout: Layout
) -> NDArray[np.float64]:
    """Return the bank's variables as one array (variable, model, perturbation, tile)."""
    variables = bank_variables(layout, decoded(reference), overlaps)
    return np.stack([variables[name][1] for name in layout.bank_metrics])


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
        float64 (model, draw, column, tile): the tiles of the blocks, in the order of `indices`, as
        `cte_dask.results.block_codec` reads them.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import delayed

    numbers = tuple(map(int, indices))
    draws = len(experiment.perturbations) * experiment.repeats
    tiles = tuple(experiment.blocks.tile_count(number) for number in numbers)
    array: dask.array.Array = da.map_blocks(
        _scored_chunk,
        delayed(experiment, name=f"experiment-{tokenize(experiment)}", traverse=False),
        numbers,
        chunks=((len(experiment.candidates),), (draws,), (len(COLUMNS),), tiles),
        dtype=np.float64,
        meta=np.empty((0, 0, 0, 0)),  # or Dask would call the function to learn the type
        name=f"score-block-{tokenize(experiment, numbers)}",
    )
    return array


def _scored_chunk(
    experiment: Experiment, numbers: tuple[int, ...], block_id: tuple[int, ...] = ()
) -> np.ndarray[Any, np.dtype[np.float64]]:
    return encoded(score_job(experiment, Job(numbers[block_id[-1]])).tiles)


def overlaps_array(
    experiment: Experiment, indices: Sequence[int]
) -> tuple[dask.array.Array, dask.array.Array]:
    """Return the scores of some blocks and how the bank's models overlap, as lazy arrays.

    Parameters
    ----------
    experiment
        The run; a metric of the whole bank must be among its own.
    indices
        Numbers of the blocks.

    Returns
    -------
    tuple of dask.array.Array
        float64 (model, draw, column, tile), as `blocks_array`, and (row, tile). Both are parts of
        one task a block: computed together, each block is scored once.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import delayed

    models = len(experiment.candidates)
    draws = len(experiment.perturbations) * experiment.repeats
    shared = delayed(experiment, name=f"experiment-{tokenize(experiment)}", traverse=False)
    values, overlaps = [], []
    for i in map(int, indices):
        block = delayed(score_block)(
            shared, i, dask_key_name=f"score-block-{tokenize(experiment, i)}"
        )
        tiles = experiment.blocks.tile_count(i)
        shape = (models, draws, len(COLUMNS), tiles)
        values.append(da.from_delayed(delayed(encoded)(block.tiles), shape, dtype=np.float64))
        rows = (overlap_rows(models), tiles)
        overlaps.append(da.from_delayed(block.overlaps, rows, dtype=np.float64))
    return da.concatenate(values, axis=-1), da.concatenate(overlaps, axis=-1)
