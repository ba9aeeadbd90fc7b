"""Random banks to measure a race on, before real models are run.

Scores are made on the logit scale: the model's level, plus what a place does to all models (a trend
over the target, a block's and a tile's own part), plus what it does to this one (a block's and a
tile's part). The ranges cover what score stores of fluorescence nuclei and of mitochondria in
electron microscopy show: medians of 0.6 to 0.997, the best two 0.0005 to 0.1 apart, deviations
over tiles of 0.2 to 0.9 logits, correlations between models of 0 to 0.9.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FEW_BLOCKS",
    "TERABYTE",
    "Bank",
    "awkward_bank",
    "close_bank",
    "real_tiles",
    "resampled_bank",
    "terabyte_bank",
]

Grid = tuple[int, int, int]
TERABYTE: Grid = (20, 10, 10)
"""Blocks along z, y and x: 2,000."""
FEW_BLOCKS: Grid = (8, 8, 8)
HALVINGS = 20


@dataclass(frozen=True, slots=True)
class Bank:
    """Scores of a bank on a target.

    Parameters
    ----------
    grid
        Blocks along z, y and x.
    tiles
        Tiles of a block that the target does not cut.
    medians
        Of all tiles of the target, (model,).
    block
        Gives the consistencies of a block, (model, tile), in [0, 1]; NaN where a tile is empty.
    """

    grid: Grid
    tiles: int
    medians: NDArray[np.float64]
    block: Callable[[int], NDArray[np.float64]]


def terabyte_bank(rng: np.random.Generator) -> Bank:
    """Draw a bank of 3 to 50 models on 2,000 blocks of many tiles.

    Parameters
    ----------
    rng
        Source of everything.

    Returns
    -------
    Bank
        Tiles vary within every block by the same amounts, (model, tile), so that medians over
        all tiles are exact without making all tiles.
    """
    count, tiles = int(rng.integers(3, 51)), int(rng.integers(32, 129))
    places = _places(rng, TERABYTE, _levels(rng, count))
    within = rng.standard_normal((1, tiles)) * rng.uniform(0.1, 0.5)
    within = within + rng.standard_normal((count, tiles)) * rng.uniform(0.1, 0.5)
    return Bank(
        TERABYTE,
        tiles,
        _squashed(_medians_of_sums(places, within)),
        lambda number: _squashed(places[number][:, None] + within),
    )


def awkward_bank(rng: np.random.Generator) -> Bank:
    """Draw a bank on 512 blocks of few tiles, with all that may go wrong.

    Parameters
    ----------
    rng
        Source of everything.

    Returns
    -------
    Bank
        One in four has hardly any variation within blocks; half have blocks of fewer tiles, half
        have tiles that are empty for all models or for one, half have few different values.
    """
    count, tiles = int(rng.integers(3, 21)), int(rng.integers(2, 17))
    inside = 0.1 if rng.random() < 0.25 else 1.0
    logits = _places(rng, FEW_BLOCKS, _levels(rng, count), outside=2 - inside)[:, :, None]
    shape = (len(logits), count, tiles)
    for extent in ((shape[0], 1, tiles), shape):
        logits = logits + inside * rng.uniform(0.1, 0.5) * rng.standard_normal(extent)
    scores = _squashed(logits)
    if rng.random() < 0.5:
        steps = float(rng.choice([20, 100]))
        scores = np.round(scores * steps) / steps
    return _of_array(FEW_BLOCKS, _holed(rng, scores))


def real_tiles(scores: Path) -> list[NDArray[np.float64]]:
    """Return the consistencies of real models on a real target under each score.

    Parameters
    ----------
    scores
        A record of `benchmarks/anytime_real.py`.

    Returns
    -------
    list of ndarray
        (model, plane, place), one a score.
    """
    record = json.loads(scores.read_text())
    planes = record["tile_counts"][0]
    return [
        np.array([np.array(row.split(), float) for row in models.values()]).reshape(
            len(models), planes, -1
        )
        for models in record["tiles"].values()
    ]


def resampled_bank(
    rng: np.random.Generator, tiles: NDArray[np.float64], *, models: int | None = None
) -> Bank:
    """Draw a bank whose tiles are alike as those of a real target are.

    Parameters
    ----------
    rng
        Source of everything.
    tiles
        Consistencies of real models on the tiles of a real target, (model, plane, place).
    models
        How many; None for 3 to 50.

    Returns
    -------
    Bank
        On 2,000 blocks. A block is a run of up to eight neighbouring planes, the
        same ones for all models; a model is a real one whose logits are moved, all alike, so that
        the medians of a bank lie as close or as far as those of other banks do.
    """
    count, depth = models or int(rng.integers(3, 51)), min(8, tiles.shape[1])
    origin = rng.integers(0, len(tiles), count)
    move = rng.normal(0, rng.uniform(0.3, 1.0), count)
    starts = rng.integers(0, tiles.shape[1] - depth + 1, prod(TERABYTE))
    inside = np.clip(tiles[origin], 0.001, 0.999)
    moved = _squashed(np.log(inside / (1 - inside)) + move[:, None, None])
    planes_read = (starts[:, None] + np.arange(depth)).ravel()
    times = np.bincount(planes_read, minlength=tiles.shape[1])
    rows = np.repeat(moved, times, axis=1).reshape(count, -1)

    def block(number: int) -> NDArray[np.float64]:
        planes: NDArray[np.float64] = moved[:, starts[number] : starts[number] + depth]
        return planes.reshape(count, -1)

    return Bank(TERABYTE, depth * tiles.shape[2], np.nanmedian(rows, axis=1), block)


def _of_array(grid: Grid, scores: NDArray[np.float64]) -> Bank:
    """Return the bank of some scores (block, model, tile)."""
    rows = np.swapaxes(scores, 0, 1).reshape(scores.shape[1], -1)
    medians = np.array([np.median(row[~np.isnan(row)]) for row in rows])
    return Bank(grid, scores.shape[2], medians, lambda number: scores[number])


def close_bank(rng: np.random.Generator) -> Bank:
    """Draw a bank on 512 blocks of few tiles whose models are nearly as good as the best one.

    Parameters
    ----------
    rng
        Source of everything.

    Returns
    -------
    Bank
        Of 3 to 10 models, 0.005 to 0.03 apart, between which blocks differ: whoever looks again
        and again until one seems better is often wrong.
    """
    count, tiles = int(rng.integers(3, 11)), int(rng.integers(4, 17))
    best = rng.uniform(0.6, 0.95)
    scores = np.clip(best - np.append(0.0, rng.uniform(0.006, 0.06, count - 1)), 0.05, 0.99)
    levels = np.log(scores / (1 - scores))[rng.permutation(count)]
    logits = _places(rng, FEW_BLOCKS, levels, outside=2.0)[:, :, None]
    logits = logits + rng.uniform(0.1, 0.3) * rng.standard_normal((len(logits), count, tiles))
    return _of_array(FEW_BLOCKS, _squashed(logits))


def _levels(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw the models' levels; in one bank of five one nearly ties with the best."""
    levels = rng.normal(rng.uniform(1, 4), rng.uniform(0.3, 1.0), count)
    if rng.random() < 0.2:
        best, other = np.argsort(-levels)[[0, -1]]
        score = _squashed(levels[best])
        levels[other] = levels[best] - rng.uniform(0, 0.01) / (score * (1 - score))
    return levels


def _places(
    rng: np.random.Generator, grid: Grid, levels: NDArray[np.float64], *, outside: float = 1.0
) -> NDArray[np.float64]:
    """Draw what blocks do to models, (block, model).

    In one bank of ten, the best model fails in a tenth of the blocks.
    """
    positions = np.indices(grid).reshape(3, -1) / np.array(grid)[:, None]
    wave = np.sin(2 * np.pi * (rng.uniform(0, 1, 3) @ positions + rng.uniform()))
    blocks = prod(grid)
    alike = rng.uniform(0, 0.5) * wave + rng.uniform(0.1, 0.5) * rng.standard_normal(blocks)
    own = rng.uniform(0.05, 0.3) * rng.standard_normal((blocks, len(levels)))
    if rng.random() < 0.1:
        own[rng.random(blocks) < 0.1, int(np.argmax(levels))] -= 2
    places: NDArray[np.float64] = levels + outside * (alike[:, None] + own)
    return places


def _holed(rng: np.random.Generator, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    blocks, _, tiles = scores.shape
    if rng.random() < 0.5:
        number = rng.integers(1, tiles + 1, (blocks, 1, 1))
        scores = np.where(np.arange(tiles) < number, scores, np.nan)
    if rng.random() < 0.5:
        empty = rng.random((blocks, 1, tiles)) < rng.uniform(0, 0.5)
        empty = empty | (rng.random(scores.shape) < rng.uniform(0, 0.2))
        scores = np.where(empty, np.nan, scores)
    return scores


def _squashed(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def _medians_of_sums(
    places: NDArray[np.float64], within: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the median of ``places[:, m] + within[m, :]`` over all pairs, by bisection."""
    medians = []
    for ordered, spread in zip(np.sort(places, axis=0).T, within, strict=True):
        low, high = ordered[0] + spread.min(), ordered[-1] + spread.max()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            under = np.searchsorted(ordered, middle - spread, side="right").sum()
            low, high = (low, middle) if 2 * under > len(ordered) * len(spread) else (middle, high)
        medians.append((low + high) / 2)
    return np.array(medians)
