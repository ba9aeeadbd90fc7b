"""The report's heat maps as data: consistency a model and cell, and which model wins a cell."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.results.layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.report.html.tile_summary import TileSummary

__all__ = ["NOT_SCORED", "SAYS_NOTHING", "map_data", "winners"]

STEPS = 60_000
SAYS_NOTHING, NOT_SCORED = 65_535, 65_534
NO_WINNER = 255
MOST_WINNERS = 8
"""Number of colours that can be told apart; further winners form one group."""


def map_data(summary: TileSummary, layout: Layout) -> dict[str, Any]:
    """Return the heat maps as plain data for the page's script.

    Parameters
    ----------
    summary
        The run's tiles.
    layout
        The layout of its score store.

    Returns
    -------
    dict
        ``values``: base64 of uint16 (model, z, y, x), consistency times 60000, 65535 where scored
        tiles are all NaN, 65534 where no tile was scored; ``winner``: base64 of uint8 (z, y, x), an
        index into ``winners``, 255 for none; the rest is geometry.
    """
    mean = summary.mean()
    # Little-endian: the page's script reads the bytes as a Uint16Array.
    values = np.where(np.isnan(mean), 0, np.rint(mean * STEPS)).astype("<u2")
    values[np.isnan(mean)] = SAYS_NOTHING
    values[summary.seen == 0] = NOT_SCORED
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
        "range": _range(mean),
        "values": _base64(values),
        "winners": [w["name"] for w in winners(summary)],
        "winner": _base64(_winner(summary)),
        "metric": str(layout.primary),
    }


def _range(mean: NDArray[np.float64]) -> list[float]:
    """Return the ends of the colour scale of all models: round numbers, low outliers cut off."""
    defined = mean[~np.isnan(mean)]
    if not len(defined):
        return [0.0, 1.0]
    low = math.floor(float(np.quantile(defined, 0.02)) * 20) / 20
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
