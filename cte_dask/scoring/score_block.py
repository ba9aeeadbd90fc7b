"""The method, in one process: one block of the target, read once, scored for every model.

No prediction leaves the device it was made on; a few numbers a tile come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.arrays import namespace, set_threads, to_numpy
from cte_dask.consistency.model_pairs import pairs_of
from cte_dask.consistency.vote_patterns import VoteTables, joined, no_votes
from cte_dask.errors import FOREIGN, reason
from cte_dask.inference.memory import with_smaller_batches
from cte_dask.scoring.bank_votes import BankVotes, bytes_of_tile, parts_of
from cte_dask.scoring.block_reader import Window, margins_of, read_window, windows
from cte_dask.scoring.block_scores import STATUS, BlockScores, TileScores, unscored
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.score_tiles import Keep, TileScorer, groups
from cte_dask.tiles import Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.perturb import Draw
    from cte_dask.scoring.experiment import Candidate, Experiment
    from cte_dask.volume import Volume

__all__ = ["failed_block", "predict_tiles", "score_block"]


def score_block(
    experiment: Experiment,
    index: int,
    *,
    models: Sequence[int] | None = None,
    votes: bool = True,
) -> BlockScores:
    """Score every tile of one block under every model and perturbation.

    Parameters
    ----------
    experiment
        The run.
    index
        Number of the block in ``experiment.blocks``.
    models
        Numbers of the models to score; None for all. The others are ``absent``. No number of a
        model depends on who else is scored, but those that compare the models with each other.
    votes
        Whether to keep the tables of vote patterns.

    Returns
    -------
    BlockScores
        A model that raises, or a block that cannot be read, is a failure with its cause, never a
        score.
    """
    set_threads(experiment.threads)
    block = experiment.blocks.block_at(index)
    numbers = range(len(experiment.candidates)) if models is None else models
    scores = failed_block(experiment, index, {}, models=numbers)
    for number in numbers:
        candidate = experiment.candidates[number]
        scores.tiles[number] = _unscored(candidate, experiment.draws, len(block.tiles))
    volume, tile, count = experiment.volume, experiment.grid.tile, len(experiment.candidates)
    bank = _Bank(count, len(block.tiles), instances=experiment.instances)
    bytes_each = bytes_of_tile(count, tile, instances=experiment.instances)
    try:
        margins = margins_of(tile, experiment.candidates, experiment.perturbations)
        for places, window in windows(volume, block, tile, margins, device=experiment.device):
            chosen = _unmasked(volume, block.tiles[places])
            _mark_constant(scores, experiment, window, np.flatnonzero(chosen) + places.start)
            chosen &= _something(scores, numbers)[places]
            for group in parts_of(places.start + np.flatnonzero(chosen), bytes_each):
                predictions = _score_tiles(experiment, window, scores, places=group, models=numbers)
                bank.add(group, predictions)
    except (OSError, ValueError) as error:
        names = [experiment.candidates[number].name for number in numbers]
        return failed_block(experiment, index, dict.fromkeys(names, reason(error)), models=numbers)
    failed = [i for i, c in enumerate(experiment.candidates) if c.name in scores.failures]
    return replace(scores, **bank.compared(failed, votes=votes))


class _Bank:
    """What the models of a bank say of each other, part by part of a block."""

    def __init__(self, models: int, tiles: int, *, instances: bool) -> None:
        self.votes = [no_votes(1, models)] * tiles
        self.precision = _no_precision(models, tiles) if instances else None

    def add(self, places: NDArray[np.int64], predictions: BankVotes) -> None:
        """Take in some tiles' predictions, which are dropped then."""
        tables = predictions.tables()
        for number, place in enumerate(places):
            self.votes[place] = tables.of_tile(number)
        if self.precision is not None:
            self.precision[:, places] = predictions.precision()

    def compared(self, failed: Sequence[int], *, votes: bool) -> dict[str, Any]:
        """Return what `BlockScores` keeps; models that failed on a later part are in none of it."""
        tables: VoteTables | None = joined(self.votes) if votes else None
        if tables is not None and failed:
            tables = tables.without(failed)
        if self.precision is not None:
            models = self.votes[0].models
            for row, pair in enumerate(pairs_of(models)):
                if not set(pair).isdisjoint(failed):
                    self.precision[row] = np.nan
        return {"votes": tables, "precision": self.precision}


def _score_tiles(
    experiment: Experiment,
    window: Window,
    scores: BlockScores,
    *,
    places: NDArray[np.int64],
    models: Sequence[int],
) -> BankVotes:
    """Score some tiles of a block under some models, in place; return what they predict."""
    block = experiment.blocks.block_at(scores.index)
    tiles = [block.tiles[i] for i in places]
    votes = BankVotes(len(experiment.candidates), len(places), experiment.grid.tile)
    for number in models:
        candidate = experiment.candidates[number]
        if candidate.name in scores.failures:
            continue
        own = np.flatnonzero(~_constant_for(scores, number)[places])
        if not len(own):
            continue
        try:
            ready = predictor(candidate, experiment.inference)
            scorer = TileScorer(experiment, ready, window, candidate.channels)
            keep = _at(partial(votes.keep, number), own)
            score = partial(_score_model, scorer, candidate, [tiles[i] for i in own], keep)
            scores.tiles[number][:, places[own]] = with_smaller_batches(scorer.ready, score)
        except FOREIGN as error:  # foreign code: one model's fault must not stop the bank
            scores.failures[candidate.name] = reason(error)
            scores.mark([number], "failed")
            votes.forget(number)
    return votes


def failed_block(
    experiment: Experiment,
    index: int,
    causes: dict[str, str],
    *,
    models: Sequence[int] | None = None,
) -> BlockScores:
    """Return the scores of a block of which nothing was computed, with a cause per model.

    Parameters
    ----------
    experiment, index
        The run, and the block's number.
    causes
        By the name of a model.
    models
        Numbers of the models that it was wanted for, None for all; the others are ``absent``.
    """
    count, tiles = len(experiment.candidates), experiment.blocks.tile_count(index)
    scores = BlockScores(
        index,
        unscored((count, len(experiment.draws), tiles), "failed"),
        causes,
        no_votes(tiles, count),
        _no_precision(count, tiles) if experiment.instances else None,
    )
    if models is not None:
        scores.mark([m for m in range(count) if m not in set(models)], "absent")
    return scores


def _no_precision(models: int, tiles: int) -> NDArray[np.float64]:
    return np.full((len(pairs_of(models)), tiles), np.nan)


def predict_tiles(
    experiment: Experiment, index: int, draws: Sequence[Draw]
) -> Iterator[tuple[str, Tile, list[Any]]]:
    """Yield the predictions of a block, to look at or to evaluate.

    Parameters
    ----------
    experiment
        The run.
    index
        Number of the block.
    draws
        The perturbed runs wanted.

    Yields
    ------
    tuple
        Name of the model, tile, and its foreground probabilities (the largest of the classes):
        the reference, then one array a draw, float32 (z, y, x) of the tile's extent.
    """
    block = experiment.blocks.block_at(index)
    window = read_window(experiment, block, [d.perturbation for d in draws])
    for candidate in experiment.candidates:
        ready = predictor(candidate, experiment.inference)
        scorer = TileScorer(experiment, ready, window, candidate.channels)
        for tile, passes in scorer.predictions(block.tiles, draws):
            yield candidate.name, tile, [foreground for foreground, _ in passes]


def _unmasked(volume: Volume, tiles: Sequence[Tile]) -> NDArray[np.bool_]:
    """Return which of some tiles, a box of them, hold a voxel that the mask lets through."""
    mask = volume.read_mask(tiles[0].start, tiles[-1].stop)
    if mask is None:
        return np.ones(len(tiles), bool)
    window = Window(mask[None], tiles[0].start)
    return np.array([bool(window.frame(t.start, t.shape).any()) for t in tiles])


def _mark_constant(
    scores: BlockScores, experiment: Experiment, window: Window, places: NDArray[np.int64]
) -> None:
    """Say which tiles hold nothing in what a model sees, where its perturbation is supported.

    They have one value throughout: padding, or chunks that are not stored.
    """
    tiles = experiment.blocks.block_at(scores.index).tiles
    for place, constant in zip(
        places, _constant_channels(window, [tiles[p] for p in places]), strict=True
    ):
        for number, candidate in enumerate(experiment.candidates):
            if all(constant[c] for c in candidate.channels or (window.channel,)):
                masked = scores.status[number, :, place] == STATUS["masked"]
                scores.tiles[number].mark((masked, place), "constant")


def _constant_channels(window: Window, tiles: Sequence[Tile]) -> Iterator[dict[int, bool]]:
    """Yield which channels of each tile have one value throughout."""
    xp, same = namespace(window.voxels), []
    for tile in tiles:
        cores = window.frame(tile.start, tile.shape, window.channels)
        same.append((cores == cores[:, :1, :1, :1]).all(axis=(1, 2, 3)))
    # one answer for all: a device is not waited for at each
    for answer in to_numpy(xp.stack(same)) if same else ():
        yield dict(zip(window.channels, map(bool, answer), strict=True))


def _something(scores: BlockScores, models: Sequence[int]) -> NDArray[np.bool_]:
    """Return which tiles of a block hold something for one of the models, (tile,)."""
    held = np.zeros(scores.status.shape[-1], bool)
    for number in models:
        held |= ~_constant_for(scores, number)
    return held


def _constant_for(scores: BlockScores, model: int) -> NDArray[np.bool_]:
    """Return which tiles of a block hold nothing for a model, (tile,)."""
    empty: NDArray[np.bool_] = (scores.status[model] == STATUS["constant"]).any(axis=0)
    return empty


def _unscored(candidate: Candidate, draws: Sequence[Draw], tiles: int) -> TileScores:
    """Return the numbers (draw, tile) of a model before any tile is scored."""
    supported = [candidate.supports(d.perturbation) for d in draws]
    scores = unscored((len(supported), tiles), "masked")
    scores.mark(~np.array(supported, bool), "unsupported")
    return scores


def _score_model(
    scorer: TileScorer,
    candidate: Candidate,
    tiles: Sequence[Tile],
    keep: Keep,
) -> TileScores:
    """Return the numbers (draw, tile) of one model for some tiles."""
    draws = scorer.experiment.draws
    scores = _unscored(candidate, draws, len(tiles))
    rows = np.array([i for i, d in enumerate(draws) if candidate.supports(d.perturbation)], int)
    possible = [draws[i] for i in rows]
    for group in groups(np.arange(len(tiles)), scorer.ready):
        chosen = [tiles[i] for i in group]
        scores[np.ix_(rows, group)] = scorer.score(chosen, possible, _at(keep, group))
    return scores


def _at(keep: Keep, places: NDArray[np.int64]) -> Keep:
    """Return what keeps the tiles of a group that lies at some places."""
    return lambda good, reference, **limits: keep(places[good], reference, **limits)
