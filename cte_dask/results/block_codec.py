"""How the numbers of a block are stored, and sent by Dask: the one place that knows the columns.

A store's chunk, and a Dask task's result, is one float64 array (model, draw, column, tile). Its
last column is the status, a whole number; NaN, what no one has written, reads as ``absent``.
Causes of failure are bytes of UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.scoring.block_scores import STATUS, TILE_STATISTICS, TileScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CAUSE_BYTES", "COLUMNS", "decoded", "decoded_causes", "encoded", "encoded_causes"]

COLUMNS = (*TILE_STATISTICS, "status")
CAUSE_BYTES = 400
"""What the ledger holds of a cause, UTF-8."""


def encoded(scores: TileScores, *, length: int | None = None) -> NDArray[np.float64]:
    """Return the numbers of tiles as one float64 array (…, column, tile).

    Parameters
    ----------
    scores
        Of shape (…, tile).
    length
        Tiles of the array, the last ones NaN: what fills a chunk, for zarr reads one before it
        writes a part of it. By default as many as there are.
    """
    *outer, tiles = scores.status.shape
    values = np.full((*outer, len(COLUMNS), tiles if length is None else length), np.nan)
    for column, name in enumerate(TILE_STATISTICS):
        values[..., column, :tiles] = scores.statistics[name]
    values[..., len(TILE_STATISTICS), :tiles] = scores.status
    return values


def decoded(values: NDArray[np.float64]) -> TileScores:
    """Return what `encoded` made an array of; its statistics are views of it.

    Parameters
    ----------
    values
        float64 (…, column, tile).
    """
    statistics = {name: values[..., i, :] for i, name in enumerate(TILE_STATISTICS)}
    status = values[..., len(TILE_STATISTICS), :]
    known = np.where(np.isnan(status), STATUS["absent"], status)
    return TileScores(statistics, known.astype(np.int8))


def encoded_causes(failures: Mapping[str, str], models: Sequence[str]) -> NDArray[np.uint8]:
    """Return causes of failure as the ledger holds them, uint8 (model, byte).

    Parameters
    ----------
    failures
        Cause per name of a model.
    models
        Names of all, in the order of the rows.
    """
    causes = np.zeros((len(models), CAUSE_BYTES), np.uint8)
    for row, name in enumerate(models):
        text = failures.get(name, "").encode()[:CAUSE_BYTES]
        causes[row, : len(text)] = np.frombuffer(text, np.uint8)
    return causes


def decoded_causes(causes: NDArray[np.uint8], models: Sequence[str]) -> dict[str, str]:
    """Return the cause of failure of each model that has one; see `encoded_causes`."""
    texts = (bytes(row).rstrip(b"\0").decode(errors="replace") for row in causes)
    return {name: text for name, text in zip(models, texts, strict=True) if text}
