"""The scores of a target as a lazy dataset: one Dask task a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.vote_patterns import no_votes
from cte_dask.results.block_codec import COLUMNS, decoded, encoded, encoded_votes, vote_columns
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
from cte_dask.scoring.score_block import score_block
from cte_dask.scoring.settings import ScoringOptions, keywords

if TYPE_CHECKING:
    import dask.array
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.models.bank import ModelBank
    from cte_dask.scoring.block_scores import BlockScores
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
    layout, blocks = layout_of(experiment), _Blocks(experiment, indices)
    dataset = labelled(layout, _variables(layout, blocks.values()), indices)
    dataset["votes"] = VOTE_DIMS, blocks.votes()
    if layout.instances:
        dataset["precision"] = PRECISION_DIMS, blocks.precision()
    dataset.attrs |= told_attributes(experiment)
    return dataset


def _variables(layout: Layout, values: dask.array.Array) -> dict[str, Any]:
    """Return what each model's own predictions say, a chunk a block."""
    import dask.array as da

    names = (*layout.metrics, *COUNTS, "status")
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
    return _Blocks(experiment, indices).values()


class _Blocks:
    """The scores of some blocks, one task a block, and the arrays that are parts of it.

    Computed together, each block is scored once.
    """

    def __init__(self, experiment: Experiment, indices: Sequence[int]) -> None:
        from dask.base import tokenize
        from dask.delayed import delayed

        token = tokenize(experiment)
        shared = delayed(experiment, name=f"experiment-{token}", traverse=False)
        self.models = len(experiment.candidates)
        self.draws = len(experiment.perturbations) * experiment.repeats
        self.tiles = [experiment.blocks.tile_count(int(i)) for i in indices]
        self.tasks = [
            delayed(score_block)(shared, int(i), dask_key_name=f"score-block-{token}-{i}")
            for i in indices
        ]

    def values(self) -> dask.array.Array:
        """Return statistics, float64 (model, draw, column, tile)."""
        shapes = [(self.models, self.draws, len(COLUMNS), n) for n in self.tiles]
        return self._joined(_encoded_tiles, shapes, np.float64, axis=-1)

    def votes(self) -> dask.array.Array:
        """Return vote patterns, uint64 (tile, column)."""
        shapes = [(n, vote_columns(self.models)) for n in self.tiles]
        return self._joined(_encoded_votes, shapes, np.uint64, axis=0)

    def precision(self) -> dask.array.Array:
        """Return how precisely objects match, float64 (pair, tile)."""
        pairs = self.models * (self.models - 1) // 2
        shapes = [(pairs, n) for n in self.tiles]
        return self._joined(_precision, shapes, np.float64, axis=-1)

    def _joined(
        self,
        part: Callable[[BlockScores], NDArray[Any]],
        shapes: Sequence[tuple[int, ...]],
        dtype: type[np.generic],
        *,
        axis: int,
    ) -> dask.array.Array:
        import dask.array as da
        from dask.delayed import delayed

        parts = [
            da.from_delayed(delayed(part)(task), shape, dtype=dtype)
            for task, shape in zip(self.tasks, shapes, strict=True)
        ]
        array: dask.array.Array = da.concatenate(parts, axis=axis)
        return array


def _encoded_tiles(scores: BlockScores) -> NDArray[np.float64]:
    return encoded(scores.tiles)


def _encoded_votes(scores: BlockScores) -> NDArray[np.uint64]:
    models = scores.status.shape[0]
    tables = no_votes(scores.status.shape[-1], models) if scores.votes is None else scores.votes
    return encoded_votes(tables, columns=vote_columns(models))


def _precision(scores: BlockScores) -> NDArray[np.float64]:
    models, _, tiles = scores.status.shape
    missing = np.full((models * (models - 1) // 2, tiles), np.nan)
    return missing if scores.precision is None else scores.precision
