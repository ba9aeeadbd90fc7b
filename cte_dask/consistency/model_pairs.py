"""The order in which the numbers of a bank's pairs of models stand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["pair_table", "pairs_of"]

Floats = NDArray[np.float64]


def pairs_of(models: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i, j), i < j, of models in the order of every table of pairs."""
    return ((i, j) for i in range(models) for j in range(i + 1, models))


def pair_table(rows: Floats, models: int) -> Floats:
    """Return rows of pairs as a symmetric table.

    Parameters
    ----------
    rows
        (pair, ...) in the order of `pairs_of`.
    models
        Number of models.

    Returns
    -------
    ndarray of float64, shape (models, models, ...)
        NaN on the diagonal.
    """
    table: Floats = np.full((models, models, *rows.shape[1:]), np.nan)
    for row, (i, j) in zip(rows, pairs_of(models), strict=True):
        table[i, j] = table[j, i] = row
    return table
