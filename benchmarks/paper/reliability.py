"""How well the labelled tiles themselves tell the models apart: the noise of the truth.

Kendall's τ counts every pair of models alike, also one whose order another sample of tiles would
turn round. Two numbers say how much of an order there is to be found:

- τ between the orders that two random halves of the labelled tiles give by their *labels*: what a
  score that knew every label of one half would reach against the other half;
- the pairs *told apart*: those whose difference of median performance keeps its sign in 97.5 % of
  the resamples of a bootstrap over groups of tiles; and every score's τ over these pairs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

__all__ = ["half_tau", "pair_tau", "reliability", "told_apart"]

Floats = NDArray[np.float64]
HALVES, RESAMPLES, SURE = 200, 1000, 0.975
FEWEST = 4
"""Groups of tiles below which nothing is said."""


def reliability(
    models: Sequence[dict[str, Any]],
    tiles: Mapping[str, Any],
    groups: Sequence[str],
    performances: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what the labels of a target tell of the order of its models.

    Parameters
    ----------
    models
        Of a record; those left out of its comparisons are left out here.
    tiles
        Columns ``model``, ``z`` and the performances: a row a model and tile.
    groups
        Origin of each z plane of the region; planes of one origin are drawn together.
    performances
        ``"f1"``, ``"map"``.
    seed
        Of the halves and of the bootstrap.

    Returns
    -------
    dict
        Performance → ``half_tau``, ``pairs``, ``told_apart`` (how many of them), and ``taus``,
        every score's τ over the pairs told apart (None without any). None in the place of
        all this where the tiles come from fewer than four groups.
    """
    compared = [m for m in models if not m["left_out"]]
    record: dict[str, Any] = {}
    for performance in performances:
        table, unit = _table(tiles, [m["name"] for m in compared], performance, groups)
        if len(np.unique(unit)) < FEWEST:
            record[performance] = None
            continue
        apart = told_apart(table, unit, seed=seed)
        scores = dict.fromkeys(s for m in compared for s in m["scores"])
        record[performance] = {
            "half_tau": half_tau(table, unit, seed=seed),
            "pairs": len(compared) * (len(compared) - 1) // 2,
            "told_apart": len(apart),
            "taus": {s: pair_tau([_own(m, s) for m in compared], apart) for s in scores},
        }
    return record


def half_tau(table: Floats, unit: NDArray[np.int64], *, seed: int = 0) -> float:
    """Return the mean τ between the orders by two random halves of the groups.

    Parameters
    ----------
    table
        Performance (model, tile); NaN where a tile says nothing.
    unit
        Group of each tile.
    seed
        Of the halves.
    """
    names = np.unique(unit)
    rng = np.random.default_rng(seed)
    taus = []
    for _ in range(HALVES):
        half = np.isin(unit, rng.permutation(names)[: len(names) // 2])
        halves = (np.nanmedian(table[:, half], axis=1), np.nanmedian(table[:, ~half], axis=1))
        taus.append(kendalltau(*halves).statistic)
    return float(np.nanmean(taus))


def told_apart(
    table: Floats, unit: NDArray[np.int64], *, seed: int = 0
) -> list[tuple[int, int, float]]:
    """Return the pairs of models that the tiles tell apart: places of both, sign of the difference.

    The groups are drawn with replacement, the same for every model.
    """
    names, member = np.unique(unit, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(names), size=(RESAMPLES, len(names)))
    places = [np.flatnonzero(member == i) for i in range(len(names))]
    medians = np.stack(
        [np.nanmedian(table[:, np.concatenate([places[i] for i in row])], axis=1) for row in drawn]
    )
    pairs = []
    for a, b in combinations(range(len(table)), 2):
        above = np.mean(medians[:, a] > medians[:, b])
        below = np.mean(medians[:, a] < medians[:, b])
        if max(above, below) >= SURE:
            pairs.append((a, b, 1.0 if above > below else -1.0))
    return pairs


def pair_tau(scores: Sequence[float], pairs: Sequence[tuple[int, int, float]]) -> float | None:
    """Return the share of pairs in order less that of pairs out of order; a tie counts for none."""
    if not pairs:
        return None
    order = [float(scores[a] > scores[b]) - float(scores[a] < scores[b]) for a, b, _ in pairs]
    return float(np.mean([o * sign for o, (*_, sign) in zip(order, pairs, strict=True)]))


def _own(model: dict[str, Any], score: str) -> float:
    value = model["scores"].get(score, {}).get("own")
    return -np.inf if value is None else float(value)


def _table(
    tiles: Mapping[str, Any], names: Sequence[str], performance: str, groups: Sequence[str]
) -> tuple[Floats, NDArray[np.int64]]:
    """Return performance (model, tile) and the group of each tile, over labelled tiles."""
    model = np.asarray(tiles["model"]).astype(str)
    values = np.asarray(tiles[performance], np.float64)
    table = np.stack([values[model == name] for name in names])
    first = model == names[0]
    _, unit = np.unique(np.asarray(groups), return_inverse=True)
    usable = (np.asarray(tiles["labelled"])[first] > 0) & ~np.isnan(table).any(axis=0)
    return table[:, usable], unit[np.asarray(tiles["z"])[first]][usable]
