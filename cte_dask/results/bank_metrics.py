"""Metrics of the whole bank as variables of the tile scores: overlaps, agreement, consensus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.bank_agreement import Similarity, similarity_of, tile_agreement
from cte_dask.consistency.degenerate import degenerate
from cte_dask.scoring.score_tiles import COLUMNS, STATUS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.results.layout import Layout

__all__ = ["bank_variables", "similarity_in"]

DIMS = ("model", "perturbation", "tile")


def bank_variables(
    layout: Layout, values: Any, overlaps: Any, similarity: Similarity | None
) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Return the variables that metrics of the whole bank add to the tile scores.

    Parameters
    ----------
    layout
        What the numbers mean.
    values
        float64 (model, draw, column, tile), NumPy or Dask.
    overlaps
        float64 (row, tile), NumPy or Dask.
    similarity
        As of `cte_dask.results.dataset.tile_scores`.

    Returns
    -------
    dict
        ``overlap`` (pair, tile), and each such metric (model, perturbation, tile), NaN but at the
        perturbation ``none``.
    """
    models = len(layout.models)
    pairs = len(overlaps) - models
    variables: dict[str, tuple[tuple[str, ...], Any]] = {
        "overlap": (("pair", "tile"), overlaps[:pairs])
    }
    if "consensus" in layout.bank_metrics:
        variables["consensus"] = (DIMS, _mapped(_placed, layout, overlaps[pairs:]))
    if "agreement" in layout.bank_metrics:
        first = layout.perturbations.index("none") * layout.repeats
        # votes are of all tiles: one task sees the few numbers of each
        variables["agreement"] = (
            DIMS,
            _mapped(_agreement, layout, overlaps[:pairs], values[:, first], similarity=similarity),
        )
    return variables


def _mapped(function: Any, layout: Layout, *arrays: Any, **options: Any) -> Any:
    """Call a function on whole arrays of tiles, in one task where they are lazy."""
    if isinstance(arrays[0], np.ndarray):
        return function(*arrays, layout=layout, **options)
    import dask.array as da

    indexed: list[Any] = []
    for array, index in zip(arrays, ("rt", "mct"), strict=False):
        indexed += [array.rechunk(-1), index]
    extents = {"m": len(layout.models), "p": len(layout.perturbations)}
    return da.blockwise(
        function,
        "mpt",
        *indexed,
        layout=layout,
        **options,
        new_axes={axis: n for axis, n in extents.items() if axis == "p" or len(arrays) == 1},
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
    )


def _placed(rows: NDArray[np.float64], *, layout: Layout) -> NDArray[np.float64]:
    """Return (model, tile) as (model, perturbation, tile), at the unperturbed prediction."""
    shape = (len(layout.models), len(layout.perturbations), rows.shape[-1])
    values = np.full(shape, np.nan)
    values[:, layout.perturbations.index("none")] = rows
    return values


def _agreement(
    pairs: NDArray[np.float64],
    reference: NDArray[np.float64],
    *,
    similarity: Similarity | None,
    layout: Layout,
) -> NDArray[np.float64]:
    if similarity is None:
        column = {name: reference[:, i] for i, name in enumerate(COLUMNS)}
        voters = _voters(column["status"], column["n_reference"], column["n_voxels"])
        similarity = similarity_of(layout.models, pairs, voters=voters)
    return _placed(tile_agreement(pairs, similarity), layout=layout)


def _voters(
    status: NDArray[np.float64], n_reference: NDArray[np.float64], n_voxels: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which models have a vote, from what they predict unperturbed (model, tile)."""
    rows = zip(n_reference, n_voxels, status == STATUS["scored"], strict=True)
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
    part = data.sel(perturbation="none")
    counts = (part[name].to_numpy() for name in ("status", "n_reference", "n_voxels"))
    names = [str(n) for n in data.model.to_numpy()]
    return similarity_of(names, data.overlap.to_numpy(), voters=_voters(*counts))
