"""How well scores order networks whose F1 is known: τ, pairs apart, what the pick loses."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cte_dask.evaluation.rank_correlation import kendall_rows

if (_paper := str(Path(__file__).resolve().parents[1] / "paper")) not in sys.path:
    sys.path.append(_paper)

from reliability import half_tau, pair_tau, told_apart

__all__ = ["APART", "DEFAULT", "SCORES", "estimation", "labels_order", "ordering", "score_of"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

APART = 0.05
"""Models whose F1 differ by more are told apart."""
RESAMPLES = 1000

SCORES = {
    "estimated F1 × CTE, dropout": ("estimated F1", "CTE, dropout"),
    "estimated F1 × CTE, mirror": ("estimated F1", "CTE, mirror"),
    "estimated F1 × CTE, several": ("estimated F1", "CTE, several"),
    "estimated F1": ("estimated F1",),
    "agreement": ("agreement",),
    "CTE, dropout": ("CTE, dropout",),
    "CTE, noise": ("CTE, noise",),
    "CTE, mirror": ("CTE, mirror",),
    "CTE, several": ("CTE, several",),
}
"""Each score and the medians over images that it is the product of."""
DEFAULT = next(iter(SCORES))
"""The package's rule for grey boxes, five or more."""


def score_of(name: str, tiles: Mapping[str, Floats], usable: Mask) -> Floats:
    """Return a score of each network, float64 (model,); -1, below all, where not usable.

    Parameters
    ----------
    name
        A key of `SCORES`.
    tiles
        Numbers of each usable network on each image, (usable model, tile).
    usable
        Which networks predict something, bool (model,).
    """
    every = np.arange(next(iter(tiles.values())).shape[1])[None]
    score: Floats = _scores(name, tiles, usable, every)[0]
    return score


def _scores(
    name: str, tiles: Mapping[str, Floats], usable: Mask, draws: npt.NDArray[np.int64]
) -> Floats:
    """Return the score of each network by the images of each draw, (draw, model)."""
    medians = [np.nanmedian(tiles[factor][:, draws], axis=2) for factor in SCORES[name]]
    scores = np.full((len(draws), len(usable)), -1.0)
    scores[:, usable] = np.prod(medians, axis=0).T
    return scores


def ordering(
    tiles: Mapping[str, Floats], truth: Floats, *, usable: Mask, foreign: Mask, seed: int
) -> dict[str, dict[str, Any]]:
    """Compare every score with F1.

    Parameters
    ----------
    tiles, usable
        As of `score_of`.
    truth
        F1 of each network on each image, (model, tile).
    foreign
        Networks that have not learnt from the target's data set, bool (model,).
    seed
        Of the bootstrap over images.

    Returns
    -------
    dict
        Score → ``tau`` with its 95 % interval over images, ``tau_usable`` and ``tau_foreign`` of
        some networks alone, ``tau_told_apart`` over the pairs of usable networks that labels tell
        apart, ``pairs`` more than `APART` apart and the ``share`` in order, the number of the
        ``pick`` and the F1 ``lost`` by it.
    """
    images = truth.shape[1]
    draws = np.random.default_rng(seed).integers(images, size=(RESAMPLES, images))
    own, drawn = np.median(truth, axis=1), np.median(truth[:, draws], axis=2).T
    apart = told_apart(truth[usable], np.arange(images), seed=seed)
    rows = {}
    for name in SCORES:
        score = score_of(name, tiles, usable)
        pairs, share = _pairs(score, own)
        taus = kendall_rows(_scores(name, tiles, usable, draws), drawn)
        low, high = np.nanquantile(taus, [0.025, 0.975]).tolist()
        pick = int(np.argmax(score))
        rows[name] = {
            "tau": _tau(score, own),
            "low": low,
            "high": high,
            "tau_usable": _tau(score[usable], own[usable]),
            "tau_foreign": _tau(score[usable & foreign], own[usable & foreign]),
            "tau_told_apart": pair_tau(score[usable].tolist(), apart),
            "pairs": pairs,
            "share": share,
            "pick": pick,
            "lost": float(own.max() - own[pick]),
        }
    return rows


def _tau(score: Floats, performance: Floats) -> float:
    return float(kendall_rows(score[None], performance[None])[0])


def _pairs(score: Floats, performance: Floats) -> tuple[int, float]:
    """Return how many pairs lie apart, and the share in order; a tie of scores counts half."""
    right = [
        0.5 * (1 + np.sign(score[a] - score[b]) * np.sign(performance[a] - performance[b]))
        for a, b in combinations(range(len(score)), 2)
        if abs(performance[a] - performance[b]) > APART
    ]
    return len(right), float(np.mean(right))


def labels_order(truth: Floats, usable: Mask, *, seed: int) -> dict[str, Any]:
    """Return how much of an order of the usable networks labels themselves know.

    Parameters
    ----------
    truth, usable, seed
        As of `ordering`.

    Returns
    -------
    dict
        ``half_tau``, between the orders by the labels of two halves of the images; ``pairs``, and
        how many of them labels have ``told_apart`` (`reliability`).
    """
    own, image = truth[usable], np.arange(truth.shape[1])
    return {
        "half_tau": half_tau(own, image, seed=seed),
        "pairs": len(own) * (len(own) - 1) // 2,
        "told_apart": len(told_apart(own, image, seed=seed)),
    }


def estimation(tiles: Mapping[str, Floats], truth: Floats, usable: Mask) -> dict[str, Any]:
    """Compare estimated with true F1 of networks that predict something.

    Parameters
    ----------
    tiles, truth, usable
        As of `ordering`.
    """
    estimated: Sequence[float] = np.nanmedian(tiles["estimated F1"], axis=1).tolist()
    own = np.median(truth, axis=1)[usable]
    error = np.array(estimated) - own
    pick = int(np.argmax(score_of(DEFAULT, tiles, usable)[usable]))
    return {
        "mean_absolute_error": float(np.abs(error).mean()),
        "bias": float(error.mean()),
        "pearson": float(np.corrcoef(estimated, own)[0, 1]),
        "pick": {"estimated": estimated[pick], "true": float(own[pick])},
    }
