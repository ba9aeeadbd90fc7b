"""A run's tile scores, a block at a time: what a summary of any size is gathered from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.dataset import read_scores, tile_scores
from cte_dask.scores import DONE

if TYPE_CHECKING:
    import xarray as xr

    from cte_dask.scores import Scores

__all__ = ["blocks_of"]


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
        from cte_dask.bank_dataset import similarity_in

        similarity = similarity_in(read_scores(scores))
    for index in map(int, np.flatnonzero(scores.done() != DONE["missing"])):
        overlaps = scores.overlaps(index) if layout.bank_metrics else None
        data = tile_scores(
            layout, scores.block(index), [index], overlaps=overlaps, similarity=similarity
        ).sel(perturbation=perturbation)
        yield index, data[metric], data.status
