"""The numbers of tiles, by name: what was counted on each, and how each went.

How they lie in a store, or travel, is known to `cte_dask.results.block_codec` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency import PAIRS, STATISTICS
from cte_dask.consistency import metric as metric_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.consistency.vote_patterns import VoteTables

__all__ = [
    "STATUS",
    "TILE_STATISTICS",
    "BlockScores",
    "TileScores",
    "joined",
    "mean_of_perturbations",
    "unscored",
]

STATUS = {
    "absent": 0,  # not computed
    "scored": 1,
    "masked": 2,  # outside the mask: no inference ran
    "non_finite_input": 3,  # NaN or infinity among the voxels the model would see
    "non_finite_output": 4,  # the model gave NaN
    "unsupported": 5,  # the model has no such perturbation
    "failed": 6,  # an error; its cause is in the ledger
    "constant": 7,  # all of one value, as padding and chunks that are not stored are: nothing ran
}
TILE_STATISTICS = (*STATISTICS, *PAIRS)


@dataclass(frozen=True, slots=True, eq=False)
class TileScores:
    """The numbers of some tiles.

    The axes are (model, draw, tile), or the last of them; a draw is one perturbed run, those of
    one perturbation stand together. It is indexed along its axes as an array is, and so are all
    its numbers at once: ``scores[0]`` is a view on the first model's.

    Parameters
    ----------
    statistics
        float64 (…, tile) for each name of `TILE_STATISTICS`; NaN where a tile was not scored.
    status
        int8 (…, tile): how each tile went, a code of `STATUS`.
    """

    statistics: Mapping[str, NDArray[np.float64]]
    status: NDArray[np.int8]

    def __getitem__(self, places: Any) -> TileScores:
        statistics = {name: numbers[places] for name, numbers in self.statistics.items()}
        return TileScores(statistics, self.status[places])

    def __setitem__(self, places: Any, scores: TileScores) -> None:
        for name, numbers in self.statistics.items():
            numbers[places] = scores.statistics[name]
        self.status[places] = scores.status

    def mark(self, places: Any, status: str) -> None:
        """Say, in place, how tiles without a score went; numbers that they had are dropped.

        Parameters
        ----------
        places
            Which tiles: an index along the axes, such as the number of a model.
        status
            A key of `STATUS`.
        """
        for numbers in self.statistics.values():
            numbers[places] = np.nan
        self.status[places] = STATUS[status]

    def has_status(self, *statuses: str) -> NDArray[np.bool_]:
        """Return which tiles have one of some statuses, bool (…, tile).

        Parameters
        ----------
        *statuses
            Keys of `STATUS`.
        """
        each = [self.status == STATUS[status] for status in statuses]
        found: NDArray[np.bool_] = np.logical_or.reduce(each)
        return found

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which tiles were scored, bool (…, tile)."""
        return self.has_status("scored")

    def consistency(self, metric: str, *, repeats: int = 1) -> NDArray[np.float64]:
        """Return how consistent each model is on each tile, under each perturbation.

        Over the draws of a perturbation it is their mean, CTE_i of eq. 3 of Talks & Kreshuk
        (arXiv 2503.00450), with NaN draws left out.

        Parameters
        ----------
        metric
            Name of a metric of one model and a perturbation (`cte_dask.consistency.METRICS`).
        repeats
            Draws of each perturbation, N_pert.

        Returns
        -------
        ndarray of float64, shape (model, perturbation, tile)
            In [0, 1]; NaN where a tile was not scored, or says nothing.
        """
        values = np.where(self.scored, metric_named(metric)(self.statistics), np.nan)
        models, draws, tiles = values.shape
        return _mean_of_draws(values.reshape(models, draws // repeats, repeats, tiles))


def _mean_of_draws(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over axis 2, NaN left out, NaN where all are; nanmean would warn of that."""
    valid = ~np.isnan(values)
    count = valid.sum(axis=2)
    total = np.where(valid, values, 0.0).sum(axis=2)
    mean: NDArray[np.float64] = total / np.where(count > 0, count, np.nan)
    return mean


def mean_of_perturbations(
    values: NDArray[np.float64], status: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Return the mean over those perturbations that every model supports, NaN left out.

    Parameters
    ----------
    values
        Consistencies, (model, perturbation, tile).
    status
        How each tile went, (model, perturbation, tile).

    Returns
    -------
    ndarray of float64, shape (model, tile)
    """
    scored = status == STATUS["scored"]
    unable = (status == STATUS["unsupported"]).any(axis=2)
    values = np.where(scored, values, np.nan)[:, ~unable.any(axis=0)]
    valid = ~np.isnan(values)
    number = valid.sum(axis=1)
    total = np.where(valid, values, 0.0).sum(axis=1)
    mean: NDArray[np.float64] = total / np.where(number > 0, number, np.nan)
    return mean


def unscored(shape: tuple[int, ...], status: str) -> TileScores:
    """Return the numbers of tiles that have none: NaN and a status.

    Parameters
    ----------
    shape
        Extents of the axes, (model, draw, tile) or the last of them.
    status
        A key of `STATUS`.
    """
    statistics = {name: np.full(shape, np.nan) for name in TILE_STATISTICS}
    return TileScores(statistics, np.full(shape, STATUS[status], np.int8))


def joined(groups: Sequence[TileScores]) -> TileScores:
    """Return the tiles of all groups one after another, (model, draw, tile).

    Parameters
    ----------
    groups
        At least one; of the same models and draws.
    """
    statistics = {
        name: np.concatenate([scores.statistics[name] for scores in groups], axis=-1)
        for name in TILE_STATISTICS
    }
    return TileScores(statistics, np.concatenate([scores.status for scores in groups], axis=-1))


@dataclass(frozen=True, slots=True, eq=False)
class BlockScores:
    """The scores of one block.

    Parameters
    ----------
    index
        Number of the block.
    tiles
        Its numbers, (model, draw, tile).
    failures
        Cause of failure per model name; empty when all went well.
    votes
        The vote patterns of the models' unperturbed predictions, a table a tile; None where none
        were made.
    precision
        Average precision of each pair's objects on each tile, float64 (pair, tile), pairs as in
        `cte_dask.consistency.model_pairs.pairs_of`; None unless instances are compared.
    """

    index: int
    tiles: TileScores
    failures: dict[str, str]
    votes: VoteTables | None = None
    precision: NDArray[np.float64] | None = None

    @property
    def statistics(self) -> Mapping[str, NDArray[np.float64]]:
        """What was counted: float64 (model, draw, tile) for each name of `TILE_STATISTICS`."""
        return self.tiles.statistics

    @property
    def status(self) -> NDArray[np.int8]:
        """How each tile went, int8 (model, draw, tile), a code of `STATUS`."""
        return self.tiles.status

    def mark(self, models: Sequence[int], status: str) -> None:
        """Say, in place, how all tiles of some models went; numbers that they had are dropped.

        Parameters
        ----------
        models
            Their numbers.
        status
            A key of `STATUS`.
        """
        self.tiles.mark(list(models), status)  # a tuple would be one place, not several
