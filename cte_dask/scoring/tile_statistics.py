"""The numbers of a tile: how the reference and a perturbed prediction agree, for every metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.arrays import Array, to_numpy
from cte_dask.consistency import STATISTICS
from cte_dask.consistency.binary import binary_agreement_batch, ei, nhd
from cte_dask.consistency.instance import pair_statistics_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.outputs import Prediction

__all__ = ["PAIRS", "tile_statistics"]

PAIRS = ("pair_common", "pair_perturbed", "pair_reference")
"""Pair counts of instance labels, NaN where no instances were made."""


def tile_statistics(
    reference: Prediction,
    perturbed: Prediction,
    *,
    cores: Sequence[tuple[slice, ...]],
    threshold: float,
    border: int = 0,
) -> NDArray[np.float64]:
    """Compare the predictions of some tiles.

    Parameters
    ----------
    reference, perturbed
        Predictions of T tiles.
    cores
        The scored part of each tile (a cut tile is smaller than its array).
    threshold
        Of the foreground; 0 for the classes of a multi-class model.
    border
        Width in voxels of the band along reference borders that V^Rand leaves out.

    Returns
    -------
    ndarray of float64, shape (T, len(STATISTICS) + len(PAIRS))
        Columns `STATISTICS`, then `PAIRS`.
    """
    classes = zip(reference.foreground, perturbed.foreground, strict=True)
    counts = [_counts(a, b, cores, threshold) for a, b in classes]
    merged = counts[0] if len(counts) == 1 else _class_mean(np.stack(counts))
    pairs = np.full((len(cores), len(PAIRS)), np.nan)
    if reference.labels is not None and perturbed.labels is not None:
        table = pair_statistics_batch(
            reference.labels, perturbed.labels, cores=cores, border=border
        )
        pairs = to_numpy(table)[:, : len(PAIRS)].astype(np.float64)
    return np.concatenate([merged, pairs], axis=1)


def _counts(
    reference: Array, perturbed: Array, cores: Sequence[tuple[slice, ...]], threshold: float
) -> NDArray[np.float64]:
    counts = binary_agreement_batch(reference, perturbed, threshold=threshold, cores=cores)
    host: NDArray[np.float64] = to_numpy(counts)
    return host


def _class_mean(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Merge (class, tile, statistic) so that NHD and EI become means over the classes present.

    Voxels are summed over the classes; disagreement and sum_ei are set to what gives the mean of
    the classes' own consistencies, so that the metrics read every tile alike.
    """
    columns = {name: i for i, name in enumerate(STATISTICS)}
    union = counts[..., columns["n_union"]]
    present = union > 0
    number = np.maximum(present.sum(axis=0), 1)
    merged: NDArray[np.float64] = counts.sum(axis=0)
    total = merged[:, columns["n_union"]]
    agree = np.where(present, nhd(union, counts[..., columns["n_disagree"]]), 0)
    soft = np.where(present, ei(union, counts[..., columns["sum_ei"]]), 0)
    means = {"n_disagree": 1 - agree.sum(axis=0) / number, "sum_ei": soft.sum(axis=0) / number}
    for name, mean in means.items():
        merged[:, columns[name]] = np.where(total > 0, mean * total, 0)
    for name in ("n_voxels", "n_nan"):
        merged[:, columns[name]] = counts[..., columns[name]].max(axis=0)
    return merged
