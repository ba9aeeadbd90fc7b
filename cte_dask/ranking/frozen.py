"""What ranks a model, tile by tile, while a run is going on: a fit of the first blocks, frozen.

A race compares numbers that are fixed before a tile is read. So what the bank says is learnt on the
first round of blocks, on which nobody bets, and frozen: the rates of the latent truth
(`cte_dask.ranking.latent_truth`), and the **panel**, those models whose votes tell most. From then
on a tile gives each model one number, estimated F1 × consistency, by the votes of the panel alone.
Models outside the panel may be dropped without changing what is said of any other; the panel is
scored to the end. When the run has ended, everything is fitted anew (`cte_dask.ranking.transfer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cte_dask.consistency.vote_patterns import joined
from cte_dask.ranking.ballot import ballot_of
from cte_dask.ranking.bootstrap import median
from cte_dask.ranking.latent_truth import fit_truth
from cte_dask.ranking.transfer import WEIGHT_POWER, mean_over_others
from cte_dask.scoring.defaults import WITNESSES

if TYPE_CHECKING:
    from cte_dask.engine.anytime import BlockNumbers
    from cte_dask.ranking.latent_truth import LatentTruth

__all__ = ["PANEL", "FrozenTransfer"]

Floats = npt.NDArray[np.float64]

PANEL = 6
"""Models whose votes judge the others while a race is on."""


class FrozenTransfer:
    """The number that each model gets of each tile; see `cte_dask.engine.anytime.TileValues`.

    Parameters
    ----------
    models
        Number of models of the bank.
    """

    def __init__(self, models: int) -> None:
        self.panel: npt.NDArray[np.bool_] = np.zeros(models, bool)
        self._truth: LatentTruth | None = None
        self._weights: Floats = np.zeros(models)
        self._original: npt.NDArray[np.int64] = np.arange(models)

    def learn(self, blocks: Sequence[BlockNumbers], usable: npt.NDArray[np.bool_]) -> None:
        """Fit the first blocks.

        Parameters
        ----------
        blocks
            Their numbers.
        usable
            Models that do not predict nothing or everything, bool (model,).
        """
        ballot = ballot_of(joined([b.votes for b in blocks]))
        truth = fit_truth(ballot, usable)
        distinct = truth.original == np.arange(len(usable))
        voters = usable & distinct & ballot.voted.any(axis=0)
        if voters.sum() < WITNESSES:
            return  # consistency alone ranks a small bank
        self.panel[_most_telling(truth, voters)] = True
        self._truth, self._original = truth.judged_by(self.panel), truth.original
        consistency = np.concatenate([b.consistency for b in blocks], axis=1)
        weights = np.where(self.panel, [median(row) for row in consistency], 0.0)
        self._weights = weights**WEIGHT_POWER

    def values(self, block: BlockNumbers) -> Floats:
        """Return what ranks each model on each tile of a block, (model, tile).

        Parameters
        ----------
        block
            Its numbers.
        """
        if self._truth is None:
            return block.consistency
        if block.precision is not None:
            witness = mean_over_others(block.precision, self._weights, self._original)
        else:
            witness = self._truth.f1(ballot_of(block.votes))
        return witness * block.consistency


def _most_telling(truth: LatentTruth, voters: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the voters whose vote says most of a voxel: information between vote and truth."""
    a, b, prior = truth.sensitivity, truth.false_positive_rate, truth.consensus.prior[0]
    vote = prior * a + (1 - prior) * b

    def divergence(p: Floats) -> Any:
        return p * np.log(p / vote) + (1 - p) * np.log((1 - p) / (1 - vote))

    information = prior * divergence(a) + (1 - prior) * divergence(b)
    gain = np.where(voters & (a > b), information, -1.0)
    order: npt.NDArray[np.int64] = np.argsort(-gain, kind="stable")[:PANEL]
    return order[gain[order] >= 0]
