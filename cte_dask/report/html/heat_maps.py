"""The report's heat maps as data: consistency a model and cell, and which model wins a cell."""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.results.layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.report.html.tally import Tally

__all__ = ["NOT_SCORED", "SAYS_NOTHING", "map_data", "winners"]

STEPS = 60_000
SAYS_NOTHING, NOT_SCORED = 65_535, 65_534
NO_WINNER = 255
MOST_WINNERS = 8
"""As many colours as can be told apart; further winners are one group."""


def map_data(tally: Tally, layout: Layout) -> dict[str, Any]:
    """Return what the page's script needs to draw the heat maps, as plain data.

    Parameters
    ----------
    tally
        The run's tiles.
    layout
        Of its score store.

    Returns
    -------
    dict
        ``values``: base64 of uint16 (model, z, y, x), consistency times 60000, 65535 where scored
        tiles say nothing, 65534 where none was scored; ``winner``: base64 of uint8 (z, y, x), an
        index into ``winners``, 255 for none; the rest is geometry.
    """
    mean = tally.mean()
    whole = np.where(np.isnan(mean), 0, np.rint(mean * STEPS)).astype("<u2")
    whole[np.isnan(mean)] = SAYS_NOTHING
    whole[tally.seen == 0] = NOT_SCORED
    grid = layout.blocks.grid
    return {
        "models": list(tally.models),
        "cells": list(tally.cells),
        "tiles": list(tally.counts),
        "tile": list(grid.tile),
        "shape": list(grid.shape),
        "origin": list(layout.origin),
        "voxel": list(layout.voxel_size_nm),
        "steps": STEPS,
        "range": _range(mean),
        "values": _base64(whole),
        "winners": [w["name"] for w in winners(tally)],
        "winner": _base64(_winner(tally)),
        "metric": layout.primary,
    }


def _range(mean: NDArray[np.float64]) -> list[float]:
    """Return the ends of the colour scale, the same for all models: round, and not outliers'."""
    known = mean[~np.isnan(mean)]
    if not len(known):
        return [0.0, 1.0]
    low = math.floor(float(np.quantile(known, 0.02)) * 20) / 20
    high = math.ceil(float(known.max()) * 20) / 20
    return [low, max(high, low + 0.05)]


def winners(tally: Tally) -> list[dict[str, Any]]:
    """Return the models that win tiles, with their share of all decided ones, most first.

    Returns
    -------
    list of dict
        ``model`` (number), ``name``, ``share`` in [0, 1] and ``group``: its colour, the last one
        of which all further models have together.
    """
    won = tally.wins.sum(axis=(1, 2, 3))
    order = [int(m) for m in np.argsort(-won, kind="stable") if won[m] > 0]
    return [
        {
            "model": m,
            "name": tally.models[m],
            "share": float(won[m] / won.sum()),
            "group": min(place, MOST_WINNERS - 1),
        }
        for place, m in enumerate(order)
    ]


def _winner(tally: Tally) -> NDArray[np.uint8]:
    """Return the place, among `winners`, of the model that wins most tiles of each cell."""
    order = [w["model"] for w in winners(tally)]
    if not order:
        return np.full(tally.cells, NO_WINNER, np.uint8)
    wins = tally.wins[order]
    place: NDArray[np.uint8] = np.minimum(wins.argmax(axis=0), NO_WINNER - 1).astype(np.uint8)
    place[wins.sum(axis=0) == 0] = NO_WINNER
    return place


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
