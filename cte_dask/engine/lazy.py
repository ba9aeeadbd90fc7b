"""The scores of a target as a lazy dataset: one Dask task a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.results.bank_metrics import bank_variables
from cte_dask.results.block_codec import decoded
from cte_dask.results.dataset import COUNTS, DIMS, labelled, told_attributes, variables_of
from cte_dask.results.layout import Layout, layout_of

if TYPE_CHECKING:
    import dask.array
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.models.bank import ModelBank
    from cte_dask.volume import Volume

__all__ = ["score"]


def score(volume: Volume, bank: ModelBank, **options: Any) -> xr.Dataset:
    """Score every tile of a target under every model, lazily.

    Parameters
    ----------
    volume
        The target, from `open_volume`.
    bank
        The source models, from `load_bank`.
    **options
        As of `cte_dask.scoring.resolve.resolve`: perturbations, metrics, tile, seed, repeats,
        device …

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
    from cte_dask.engine.dask_runner import blocks_array, overlaps_array
    from cte_dask.scoring.resolve import resolve

    experiment = resolve(volume, bank, **options)
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

    reference = values[:, layout.draws("none").start]
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
