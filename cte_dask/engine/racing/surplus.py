"""Proof, as blocks come in, that bounded numbers sum to more than nothing over the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.engine.racing.order import Round

__all__ = ["Surplus"]

STAKE = 0.9
SMALL = 0.02


class Surplus:
    """For each model, a bet against *the numbers of all blocks sum to at most 0*.

    With it a model can be set aside for good: "its predictions are empty on at least 95 % of all
    tiles" is that the blocks' numbers of empty tiles, less 95 % of their tiles, sum to more than 0.

    Parameters
    ----------
    models
        Their number.
    least
        No block's number is below minus this.
    error
        Probability at most, for each model, that a surplus is proven that does not exist.
    """

    def __init__(self, models: int, *, least: float, error: float) -> None:
        self.least, self._enough = least, -np.log(error)
        self._wealth, self._sum = np.zeros(models), np.zeros(models)
        self.proven: NDArray[np.bool_] = np.zeros(models, bool)

    def observe(self, drawn: Round, numbers: NDArray[np.float64]) -> None:
        """Take in a round: numbers (block, model), in units in which a whole block has size 1.

        Valid as `cte_dask.engine.racing.claims.Claims.growth` is, with one stake.
        """
        # if all numbers sum to 0 at most, those unread have a mean of at most this
        fair = -self._sum / drawn.unread
        stake = STAKE / np.maximum(self.least + fair, SMALL) / max(drawn.weights)
        weights = np.array(drawn.weights)[:, None]
        self._wealth = self._wealth + np.log1p(weights * stake * (numbers - fair)).sum(axis=0)
        self._sum = self._sum + numbers.sum(axis=0)
        self.proven = self.proven | (self._wealth >= self._enough)
