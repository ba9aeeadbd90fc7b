"""Metrics of the whole bank as variables of the tile scores: overlaps, agreement, consensus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cte_dask.consistency.bank_agreement import Similarity, similarity_of, tile_agreement
from cte_dask.consistency.degenerate import degenerate
from cte_dask.consistency.score_names import UNPERTURBED
from cte_dask.scoring.block_scores import STATUS, TileScores

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.results.layout import Layout

__all__ = ["bank_variables", "similarity_in"]

DIMS = ("model", "perturbation", "tile")


def bank_variables(
    layout: Layout,
    reference: TileScores,
    overlaps: NDArray[np.float64],
    similarity: Similarity | None = None,
) -> dict[str, tuple[tuple[str, ...], NDArray[np.float64]]]:
    """Return the variables that metrics of the whole bank add to the tile scores.

    Parameters
    ----------
    layout
        What the numbers mean.
    reference
        The numbers of the unperturbed predictions, (model, tile).
    overlaps
        float64 (row, tile).
    similarity
        Whose word counts how much in agreement; by default what these tiles tell.

    Returns
    -------
    dict
        ``overlap`` (pair, tile), and each such metric (model, perturbation, tile), NaN but at the
        perturbation ``none``.
    """
    pairs, consensus = np.split(overlaps, [len(overlaps) - len(layout.models)])
    variables: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {
        "overlap": (("pair", "tile"), pairs)
    }
    if "consensus" in layout.bank_metrics:
        variables["consensus"] = (DIMS, _placed(layout, consensus))
    if "agreement" in layout.bank_metrics:
        similarity = _similarity(layout, reference, pairs) if similarity is None else similarity
        variables["agreement"] = (DIMS, _placed(layout, tile_agreement(pairs, similarity)))
    return variables


def _placed(layout: Layout, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (model, tile) as (model, perturbation, tile), NaN but at the perturbation ``none``."""
    shape = (len(layout.models), len(layout.perturbations), rows.shape[-1])
    values = np.full(shape, np.nan)
    values[:, layout.perturbations.index(UNPERTURBED)] = rows
    return values


def _similarity(layout: Layout, reference: TileScores, pairs: NDArray[np.float64]) -> Similarity:
    counts = reference.statistics
    voters = _voters(reference.scored, counts["n_reference"], counts["n_voxels"])
    return similarity_of(layout.models, pairs, voters=voters)


def _voters(
    scored: NDArray[np.bool_], n_reference: NDArray[np.float64], n_voxels: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which models have a vote, from what they predict unperturbed (model, tile)."""
    rows = zip(n_reference, n_voxels, scored, strict=True)
    return np.array([not degenerate(n[s], v[s]) for n, v, s in rows], bool)


def similarity_in(data: xr.Dataset) -> Similarity | None:
    """Return how alike the models of a bank predict; None if overlaps were not asked for.

    Parameters
    ----------
    data
        Tile scores, computed.
    """
    if "overlap" not in data:
        return None
    reference = data.sel(perturbation=UNPERTURBED)
    scored = reference.status.to_numpy() == STATUS["scored"]
    voters = _voters(scored, reference.n_reference.to_numpy(), reference.n_voxels.to_numpy())
    names = [str(n) for n in data.model.to_numpy()]
    return similarity_of(names, data.overlap.to_numpy(), voters=voters)
