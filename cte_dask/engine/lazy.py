"""The scores of a target as a lazy dataset: one Dask task a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cte_dask.results.dataset import tile_scores, told_attributes
from cte_dask.results.layout import layout_of

if TYPE_CHECKING:
    import xarray as xr

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
    dataset = tile_scores(layout_of(experiment), values, indices, overlaps=overlaps)
    dataset.attrs |= told_attributes(experiment)
    return dataset
