"""The report's heat maps as data: consistency a model and cell, who wins a cell, the consensus."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.results.layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.ranking.consensus import Consensus
    from cte_dask.report.html.tile_summary import TileSummary

__all__ = ["NOT_SCORED", "SAYS_NOTHING", "map_data", "winners"]

STEPS = 60_000
SAYS_NOTHING, NOT_SCORED = 65_535, 65_534
NO_WINNER = 255
LAYERS = "Foreground that the bank sees", "How unsure the bank is"
MOST_WINNERS = 8
"""Number of colours that can be told apart; further winners form one group."""


def map_data(
    summary: TileSummary, layout: Layout, consensus: Consensus | None = None
) -> dict[str, Any]:
    """Return the heat maps as plain data for the page's script.

    Parameters
    ----------
    summary
        The run's tiles.
    layout
        The layout of its score store.
    consensus
        What the bank sees of its tiles; None where it is not known.

    Returns
    -------
    dict
        ``values``: base64 of uint16 (row, z, y, x), a row a model and then one of each of
        ``layers``, what the bank sees; consistency, or what a layer tells, times 60000, 65535 where
        scored tiles are all NaN, 65534 where no tile was scored; ``winner``: base64 of uint8
        (z, y, x), an index into ``winners``, 255 for none; the rest is geometry.
    """
    mean = summary.mean()
    rows = [_coded(row, seen) for row, seen in zip(mean, summary.seen > 0, strict=True)]
    ranges = [_range(mean)] * max(1, len(rows))
    for layer in _layers(summary, consensus):
        rows.append(_coded(layer, np.any(summary.seen > 0, axis=0)))
        ranges.append(_range(layer, lowest=0.0))
    grid = layout.blocks.grid
    return {
        "models": list(summary.models),
        "cells": list(summary.cells),
        "tiles": list(summary.counts),
        "tile": list(grid.tile),
        "shape": list(grid.shape),
        "origin": list(layout.origin),
        "voxel": list(layout.voxel_size_nm),
        "steps": STEPS,
        "layers": list(LAYERS) if consensus is not None else [],
        "ranges": ranges,
        "values": _base64(np.stack(rows) if rows else np.empty(0, "<u2")),
        "winners": [w["name"] for w in winners(summary)],
        "winner": _base64(_winner(summary)),
        "metric": str(layout.primary),
    }


def _coded(cells: NDArray[np.float64], scored: NDArray[Any]) -> NDArray[np.uint16]:
    """Return a heat map as whole numbers; little-endian, as the page's script reads them."""
    coded = np.where(np.isnan(cells), SAYS_NOTHING, np.rint(np.nan_to_num(cells) * STEPS))
    return np.where(scored, coded, NOT_SCORED).astype("<u2")


def _layers(summary: TileSummary, consensus: Consensus | None) -> list[NDArray[np.float64]]:
    """Return what the bank sees as the mean of each cell's tiles, in the order of `LAYERS`."""
    if consensus is None:
        return []
    cell = summary.cell_of(consensus.tile)
    size = math.prod(summary.cells)
    means = []
    for values in (consensus.foreground, consensus.uncertainty):
        known = ~np.isnan(values)
        total = np.bincount(cell[known], values[known], minlength=size)
        number = np.bincount(cell[known], minlength=size)
        means.append((total / np.where(number > 0, number, np.nan)).reshape(summary.cells))
    return means


def _range(mean: NDArray[np.float64], *, lowest: float | None = None) -> list[float]:
    """Return the ends of a colour scale: round numbers, low outliers cut off."""
    defined = mean[~np.isnan(mean)]
    if not len(defined):
        return [0.0, 1.0]
    low = math.floor(float(np.quantile(defined, 0.02)) * 20) / 20 if lowest is None else lowest
    high = math.ceil(float(defined.max()) * 20) / 20
    return [low, max(high, low + 0.05)]


def winners(summary: TileSummary) -> list[dict[str, Any]]:
    """Return the models that win tiles, with their share of all decided ones, most first.

    Returns
    -------
    list of dict
        ``model`` (number), ``name``, ``share`` in [0, 1] and ``group``: its colour; models
        beyond the last colour share it.
    """
    won = summary.wins.sum(axis=(1, 2, 3))
    order = [int(m) for m in np.argsort(-won, kind="stable") if won[m] > 0]
    return [
        {
            "model": m,
            "name": summary.models[m],
            "share": float(won[m] / won.sum()),
            "group": min(place, MOST_WINNERS - 1),
        }
        for place, m in enumerate(order)
    ]


def _winner(summary: TileSummary) -> NDArray[np.uint8]:
    """Return the place, among `winners`, of the model that wins most tiles of each cell."""
    order = [w["model"] for w in winners(summary)]
    if not order:
        return np.full(summary.cells, NO_WINNER, np.uint8)
    wins = summary.wins[order]
    place: NDArray[np.uint8] = np.minimum(wins.argmax(axis=0), NO_WINNER - 1).astype(np.uint8)
    place[wins.sum(axis=0) == 0] = NO_WINNER  # argmax of zeros would name the first
    return place


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
