"""How the numbers of a block are stored, and sent by Dask: the one place that knows the columns.

A store's chunk, and a Dask task's result, is one float64 array (model, draw, column, tile). Its
last column is the status, a whole number; NaN, what no one has written, reads as ``absent``.
Vote patterns are a row of uint64 a tile: the step of its lattice, its patterns' number, who voted,
the patterns, and their counts; zeros fill it up.
Causes of failure are bytes of UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.vote_patterns import (
    MOST_PATTERNS,
    VoteTables,
    no_votes,
    votes_of,
    words_for,
)
from cte_dask.scoring.block_scores import STATUS, TILE_STATISTICS, TileScores

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from cte_dask.results.score_table import ScoreTable

__all__ = [
    "CAUSE_BYTES",
    "COLUMNS",
    "decoded",
    "decoded_causes",
    "decoded_votes",
    "encoded",
    "encoded_bank",
    "encoded_causes",
    "encoded_votes",
    "vote_columns",
    "votes_in",
]

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


def vote_columns(models: int, patterns: int = MOST_PATTERNS) -> int:
    """Return the numbers of a tile's row that holds so many patterns of so many models."""
    words = words_for(models)
    return 2 + words + patterns * (words + 1)


def encoded_votes(tables: VoteTables, *, columns: int | None = None) -> NDArray[np.uint64]:
    """Return vote patterns as one array, uint64 (tile, column).

    Parameters
    ----------
    tables
        Tables of some tiles.
    columns
        Columns of the array; by default as many as the longest table takes.
    """
    models, lengths = tables.models, tables.lengths
    if columns is None:
        columns = vote_columns(models, int(lengths.max(initial=0)))
    words, rows = words_for(models), np.zeros((len(tables), columns), np.uint64)
    rows[:, 0], rows[:, 1] = tables.step, lengths
    bits = np.zeros((len(tables), 64 * words), bool)
    bits[:, :models] = tables.voted
    rows[:, 2 : 2 + words] = np.packbits(bits, axis=1, bitorder="little").view("<u8")
    starts = tables.ends - lengths
    for row, start, end in zip(rows, starts.tolist(), tables.ends.tolist(), strict=True):
        patterns = tables.patterns[start:end].ravel()
        row[2 + words : 2 + words + len(patterns)] = patterns
        row[2 + words + len(patterns) :][: end - start] = tables.counts[start:end]
    return rows


def encoded_bank(
    votes: VoteTables, precision: NDArray[np.float64] | None, *, length: int
) -> dict[str, NDArray[Any]]:
    """Return what the models say of each other on a block, by the name of the array.

    Parameters
    ----------
    votes
        Its vote patterns.
    precision
        How precisely each pair's objects match, (pair, tile); None unless instances are compared.
    length
        Tiles of a chunk.
    """
    rows = encoded_votes(votes, columns=vote_columns(votes.models))
    if len(rows) < length:  # a cut block; zarr would read a chunk before it writes a part of it
        rows = np.pad(rows, ((0, length - len(rows)), (0, 0)))
    if precision is None:
        return {"votes": rows}
    pairs = np.full((len(precision), length), np.nan)
    pairs[:, : precision.shape[-1]] = precision
    return {"votes": rows, "precision": pairs}


def decoded_votes(rows: NDArray[np.uint64], models: int) -> VoteTables:
    """Return what `encoded_votes` made an array of.

    Parameters
    ----------
    rows
        uint64 (tile, column).
    models
        Number of models.
    """
    words, lengths = words_for(models), rows[:, 1].astype(np.int64)
    patterns, counts = [np.empty((0, words), np.uint64)], [np.empty(0, np.uint64)]
    for row, length in zip(rows, lengths.tolist(), strict=True):
        middle = 2 + words + length * words
        patterns.append(row[2 + words : middle].reshape(length, words))
        counts.append(row[middle : middle + length])
    return VoteTables(
        ends=np.cumsum(lengths),
        patterns=np.concatenate(patterns),
        counts=np.concatenate(counts).astype(np.int64),
        voted=votes_of(rows[:, 2 : 2 + words], models),
        step=rows[:, 0].astype(np.int64),
    )


def votes_in(scores: ScoreTable | xr.Dataset) -> VoteTables:
    """Return the vote patterns of tile scores; none where they were not kept.

    Parameters
    ----------
    scores
        From `score` or `read_scores`, computed; or the same as a table.
    """
    models, tiles = scores.sizes["model"], scores.sizes["tile"]
    if "votes" not in scores:
        return no_votes(tiles, models)
    return decoded_votes(np.asarray(scores["votes"]), models)


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
