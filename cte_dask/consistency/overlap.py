"""Agreement between the models of a bank: how the unperturbed predictions of one tile overlap.

Masks are packed, a bit a voxel, so that those of a whole bank stay on the device until every model
has predicted a tile; overlaps are bitwise ands and population counts. They cost no prediction: the
reference predictions exist already. The weight of each model's vote is decided later, from all
tiles (`cte_dask.consistency.bank_agreement`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array, namespace, to_numpy
from cte_dask.consistency import Metric
from cte_dask.consistency.binary import native_threshold
from cte_dask.consistency.instance import pair_statistics_batch, v_rand_of_pairs
from cte_dask.consistency.model_pairs import pairs_of

Floats = npt.NDArray[np.float64]

__all__ = [
    "AGREEMENT",
    "CONSENSUS",
    "label_overlaps",
    "majority_overlaps",
    "mask_overlaps",
    "merged",
    "packed",
]

WORD = 64
HALF = 0.5 + 1e-6  # rounding of weights must not turn a tie into a majority
UNPACKED_VOXELS = 2**19
"""Voxels of each model that `majority_overlaps` unpacks at a time, 8 and then 32 bits a voxel."""


def _itself(value: npt.ArrayLike) -> Array:
    return np.asarray(value, np.float64)


AGREEMENT = Metric("agreement", ("agreement",), _itself)
CONSENSUS = Metric("consensus", ("consensus",), _itself)


def packed(maps: Sequence[Array], *, cores: Sequence[tuple[slice, ...]], threshold: float) -> Array:
    """Pack foreground masks, a bit a voxel.

    Parameters
    ----------
    maps
        One array a class, (T, z, y, x): probabilities.
    cores
        The scored part of each tile; what lies outside is in no mask.
    threshold
        A voxel is foreground if its value is strictly greater, compared in the maps' dtype.

    Returns
    -------
    ndarray of uint64, shape (class, T, word)
        64 voxels a word, the last one filled with zeros.
    """
    xp = namespace(*maps)
    tiles, *extent = maps[0].shape
    voxels = math.prod(extent)
    masks = xp.zeros((len(maps), tiles, -(-voxels // WORD) * WORD), dtype=bool)
    for number, values in enumerate(maps):
        limit = native_threshold(threshold, values.dtype)
        for tile, core in enumerate(cores):
            # A view: writing through it leaves voxels outside the core, and the padding, False.
            mask = masks[number, tile, :voxels].reshape(extent)
            mask[core] = values[tile][core] > limit
    bits = xp.packbits(masks.reshape(-1))
    words: Array = bits.view(xp.uint64).reshape(len(maps), tiles, -1)
    return words


def merged(masks: Sequence[Array]) -> Array:
    """Return the masks of some models as one array, whatever classes each has.

    Parameters
    ----------
    masks
        For each model, (class, T, word).

    Returns
    -------
    ndarray of uint64, shape (class, model, T, word)
        Class by class if all models have as many classes; otherwise one class, any foreground.
    """
    xp = namespace(*masks)
    if len({len(m) for m in masks}) > 1:
        masks = [_any_class(xp, m) for m in masks]
    stacked: Array = xp.stack(list(masks), axis=1)
    return stacked


def _any_class(xp: ModuleType, masks: Array) -> Array:
    union: Array = masks[:1].copy()
    for other in masks[1:]:
        union |= other
    return union


def mask_overlaps(masks: Array) -> Floats:
    """Return the IoU of every pair of models on every tile.

    Parameters
    ----------
    masks
        Packed masks (class, model, T, word), from `merged`.

    Returns
    -------
    ndarray of float64, shape (pair, T)
        Pairs as in `cte_dask.consistency.model_pairs.pairs_of`, on the host. NaN where neither
        model has foreground; of several classes the mean over those present in either.
    """
    by_class = np.stack([_class_overlaps(m) for m in masks])
    present = ~np.isnan(by_class)
    number = present.sum(axis=0)
    total = np.where(present, by_class, 0.0).sum(axis=0)
    mean: Floats = total / np.where(number > 0, number, np.nan)
    return mean


def _class_overlaps(masks: Array) -> Floats:
    xp = namespace(masks)
    sizes = _counts(xp, masks)
    rows = []
    for i in range(len(masks) - 1):
        # One model against all later ones at once; |A or B| follows from the sizes, without a pass.
        common = _counts(xp, masks[i + 1 :] & masks[i])
        union = sizes[i + 1 :] + sizes[i] - common
        rows.append(common / xp.where(union > 0, union, math.nan))
    if not rows:
        return np.empty((0, masks.shape[1]))
    overlaps: Floats = to_numpy(xp.concatenate(rows)).astype(np.float64)
    return overlaps


def _counts(xp: ModuleType, words: Array) -> Array:
    """Return the number of set bits of (..., word) as float64 (...)."""
    # On the GPU one instruction a word does what bitwise_count does on the CPU.
    bits = np.bitwise_count(words) if xp is np else _device_popcount()(words)
    total: Array = bits.sum(axis=-1, dtype=xp.float64)
    return total


@cache
def _device_popcount() -> Any:
    import cupy

    return cupy.ElementwiseKernel("uint64 words", "uint8 bits", "bits = __popcll(words)")


def label_overlaps(labels: Sequence[Array], *, cores: Sequence[tuple[slice, ...]]) -> Floats:
    """Return V^Rand (`consistency.instance`) of every pair of models on every tile.

    Parameters
    ----------
    labels
        For each model its instances, (T, z, y, x).
    cores
        The scored part of each tile.

    Returns
    -------
    ndarray of float64, shape (pair, T)
        Pairs as in `cte_dask.consistency.model_pairs.pairs_of`, on the host.
    """
    rows = []
    for i, j in pairs_of(len(labels)):
        counts = to_numpy(pair_statistics_batch(labels[i], labels[j], cores=cores))
        rows.append(v_rand_of_pairs(*counts.T.astype(np.float64)))
    return np.array(rows).reshape(-1, len(cores))


def majority_overlaps(masks: Array, votes: Sequence[Floats]) -> Floats:
    """Return the IoU of each model with the majority vote of the other models.

    Parameters
    ----------
    masks
        Packed masks (class, model, T, word); a voxel of any class is foreground.
    votes
        For each tile a table (model, voter): how much each voter counts for a model; NaN rows
        have no voters.

    Returns
    -------
    ndarray of float64, shape (model, T)
        A voxel is in the majority if more than half of the votes call it foreground. NaN where
        there is no foreground on either side, or no voter.
    """
    xp = namespace(masks)
    union = _any_class(xp, masks)[0]
    tiles = [_majority(xp, union[:, t], v) for t, v in enumerate(votes)]
    overlaps: Floats = np.stack(tiles, axis=1)
    return overlaps


def _majority(xp: ModuleType, words: Array, votes: Floats) -> Floats:
    total = votes.sum(axis=1, keepdims=True)
    weights = xp.asarray(votes / np.where(total > 0, total, np.nan), dtype=xp.float32)
    common, either = xp.zeros(len(words)), xp.zeros(len(words))
    step = max(1, UNPACKED_VOXELS // WORD)
    for low in range(0, words.shape[1], step):
        chunk = xp.ascontiguousarray(words[:, low : low + step])
        bits = xp.unpackbits(chunk.view(xp.uint8).reshape(-1)).reshape(len(words), -1)
        # The weighted vote of every voxel for every model is one matrix product.
        majority = weights @ bits.astype(xp.float32) > HALF
        own = bits.astype(bool)
        common += (majority & own).sum(axis=1)
        either += (majority | own).sum(axis=1)
    iou = to_numpy(common / xp.where(either > 0, either, math.nan)).astype(np.float64)
    result: Floats = np.where(total[:, 0] > 0, iou, np.nan)
    return result
