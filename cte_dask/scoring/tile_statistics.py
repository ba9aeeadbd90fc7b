"""The numbers of a tile: how the reference and a perturbed prediction agree, for every metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.arrays import Array, to_numpy
from cte_dask.consistency import PAIRS, STATISTICS
from cte_dask.consistency.binary import binary_agreement_batch, ei, nhd
from cte_dask.consistency.instance import pair_statistics_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.outputs import Prediction

__all__ = ["tile_statistics"]

Statistics = dict[str, "NDArray[np.float64]"]


def tile_statistics(
    reference: Prediction,
    perturbed: Prediction,
    *,
    cores: Sequence[tuple[slice, ...]],
    threshold: float,
    border: int = 0,
) -> Statistics:
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
    dict
        float64 (T,) for each name of `STATISTICS` and `PAIRS`.
    """
    classes = zip(reference.foreground, perturbed.foreground, strict=True)
    counts = [_counts(a, b, cores, threshold) for a, b in classes]
    merged = counts[0] if len(counts) == 1 else _class_mean(counts)
    return merged | _pair_counts(reference, perturbed, cores, border)


def _counts(
    reference: Array, perturbed: Array, cores: Sequence[tuple[slice, ...]], threshold: float
) -> Statistics:
    table = binary_agreement_batch(reference, perturbed, threshold=threshold, cores=cores)
    return dict(zip(STATISTICS, to_numpy(table).T, strict=True))


def _pair_counts(
    reference: Prediction, perturbed: Prediction, cores: Sequence[tuple[slice, ...]], border: int
) -> Statistics:
    if reference.labels is None or perturbed.labels is None:
        return {name: np.full(len(cores), np.nan) for name in PAIRS}
    table = pair_statistics_batch(reference.labels, perturbed.labels, cores=cores, border=border)
    columns = to_numpy(table).astype(np.float64).T[: len(PAIRS)]
    return dict(zip(PAIRS, columns, strict=True))


def _class_mean(classes: Sequence[Statistics]) -> Statistics:
    """Merge the counts of several classes so that NHD and EI become means over those present.

    Voxels are summed over the classes; disagreement and sum_ei are set to what gives the mean of
    the classes' own consistencies, so that the metrics read every tile alike.
    """
    counts = {name: np.stack([c[name] for c in classes]) for name in STATISTICS}
    union = counts["n_union"]
    present = union > 0
    number = np.maximum(present.sum(axis=0), 1)  # of classes; 1 where none is present, unused
    merged: Statistics = {name: numbers.sum(axis=0) for name, numbers in counts.items()}
    total = merged["n_union"]
    agree = np.where(present, nhd(union, counts["n_disagree"]), 0)
    soft = np.where(present, ei(union, counts["sum_ei"]), 0)
    means = {"n_disagree": 1 - agree.sum(axis=0) / number, "sum_ei": soft.sum(axis=0) / number}
    for name, mean in means.items():
        merged[name] = np.where(total > 0, mean * total, 0)
    for name in ("n_voxels", "n_nan"):
        merged[name] = counts[name].max(axis=0)
    return merged
