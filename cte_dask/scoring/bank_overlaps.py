"""The reference predictions of a whole bank on some tiles, kept until every model has seen them.

Bit-packed masks take 1/32 of float probabilities; a block's tiles are taken a part at a time, so
that those of all models never exceed `MOST_BYTES`, whatever the block and the bank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.bank_agreement import tile_votes
from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.consistency.overlap import (
    label_overlaps,
    majority_overlaps,
    mask_overlaps,
    merged,
    packed,
)
from cte_dask.scoring.block_scores import overlap_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.arrays import Array
    from cte_dask.inference.outputs import Prediction
    from cte_dask.scoring.experiment import Experiment

__all__ = ["BankOverlaps", "parts_of", "without"]

MOST_BYTES = 2**28


def without(overlaps: NDArray[np.float64], missing: Sequence[int], models: int) -> None:
    """Make NaN, in place, of every row (pair or consensus) of some models."""
    for row, pair in enumerate(pairs_of(models)):
        if not set(pair).isdisjoint(missing):
            overlaps[row] = np.nan
    first = overlap_rows(models) - models
    overlaps[[first + m for m in missing]] = np.nan


def parts_of(experiment: Experiment, tiles: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut the tiles of a block into parts whose kept predictions fit; one part if none are kept."""
    if not experiment.bank_metrics:
        yield tiles
        return
    classes = [max(1, len(c.spec.output.classes or ())) for c in experiment.candidates]
    bits = sum(classes) + (32 * len(classes) if experiment.instances else 0)
    size = max(1, 8 * MOST_BYTES // (bits * math.prod(experiment.grid.tile)))
    for low in range(0, len(tiles), size):
        yield tiles[low : low + size]


class BankOverlaps:
    """Masks (and labels) of every model on some tiles, on the device.

    Parameters
    ----------
    models, tiles
        Their numbers.
    consensus
        Whether the consensus of the others is wanted too.
    instances
        Whether pairs are compared by their instances.
    """

    def __init__(self, models: int, tiles: int, *, consensus: bool, instances: bool) -> None:
        self.models, self.tiles = models, tiles
        self.consensus, self.instances = consensus, instances
        self.masks: list[Any] = [None] * models
        self.labels: list[Any] = [None] * models
        self.valid = np.zeros((models, tiles), bool)
        self.cores: list[tuple[slice, ...]] = [()] * tiles

    def keep(
        self,
        model: int,
        places: Sequence[int],
        reference: Prediction,
        *,
        cores: Sequence[tuple[slice, ...]],
        threshold: float,
        valid: NDArray[np.bool_],
    ) -> None:
        """Keep what a model predicts on some tiles.

        Parameters
        ----------
        model
            Its number.
        places
            Places of the tiles among all of them.
        reference
            The unperturbed prediction of these tiles.
        cores
            Their scored parts.
        threshold
            Of the foreground.
        valid
            Which of them have a prediction that counts, bool (place,).
        """
        words = packed(reference.foreground, cores=cores, threshold=threshold)
        self.masks[model] = _put(self.masks[model], words, places, axis=1, size=self.tiles)
        if self.instances and reference.labels is not None:
            labels = reference.labels.astype("int32")
            self.labels[model] = _put(self.labels[model], labels, places, axis=0, size=self.tiles)
        self.valid[model, places] = valid
        for tile, core in zip(places, cores, strict=True):
            self.cores[tile] = core

    def forget(self, model: int) -> None:
        """Drop what a model gave: it failed later."""
        self.masks[model] = self.labels[model] = None
        self.valid[model] = False

    def rows(self) -> NDArray[np.float64]:
        """Return `overlap_rows` numbers a tile, (row, tile); NaN where a model is missing."""
        rows = np.full((overlap_rows(self.models), self.tiles), np.nan)
        present = [m for m in range(self.models) if self.masks[m] is not None]
        if not present:
            return rows
        masks = merged([self.masks[m] for m in present])
        # models that failed or were masked throughout leave their rows NaN
        number = {pair: row for row, pair in enumerate(pairs_of(self.models))}
        both = [(present[i], present[j]) for i, j in pairs_of(len(present))]
        pair_rows = [number[pair] for pair in both]
        valid = np.array([self.valid[i] & self.valid[j] for i, j in both]).reshape(-1, self.tiles)
        rows[pair_rows] = np.where(valid, self._pairs(present, masks), np.nan)
        if self.consensus:
            first = overlap_rows(self.models) - self.models
            votes = [
                tile_votes(rows[pair_rows, t], voters=self.valid[present, t])
                for t in range(self.tiles)
            ]
            overlaps = majority_overlaps(masks, votes)
            rows[[first + m for m in present]] = np.where(self.valid[present], overlaps, np.nan)
        return rows

    def _pairs(self, present: Sequence[int], masks: Array) -> NDArray[np.float64]:
        if not self.instances:
            return mask_overlaps(masks)
        return label_overlaps([self.labels[m] for m in present], cores=self.cores)


def _put(array: Any, values: Any, places: Sequence[int], *, axis: int, size: int) -> Any:
    """Put tiles into an array of all of them, made when first needed."""
    from cte_dask.arrays import namespace

    xp = namespace(values)
    if array is None:
        shape = [size if i == axis else n for i, n in enumerate(values.shape)]
        array = xp.zeros(shape, dtype=values.dtype)
    array[(slice(None),) * axis + (xp.asarray(places),)] = values
    return array
