"""The method, in one process: one block of the target, read once, scored for every model.

No prediction leaves the device it was made on; a few numbers a tile come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.arrays import set_threads
from cte_dask.errors import reason
from cte_dask.inference.memory import with_smaller_batches
from cte_dask.scoring.bank_overlaps import BankOverlaps, parts_of, without
from cte_dask.scoring.block_reader import Window, read_window, windows
from cte_dask.scoring.block_scores import BlockScores, TileScores, overlap_rows, unscored
from cte_dask.scoring.score_tiles import Keep, TileScorer, groups
from cte_dask.tiles import Block, Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb import Draw
    from cte_dask.scoring.experiment import Candidate, Experiment

__all__ = ["failed_block", "loaded", "predict_tiles", "score_block"]


def score_block(experiment: Experiment, index: int) -> BlockScores:
    """Score every tile of one block under every model and perturbation.

    Parameters
    ----------
    experiment
        The run.
    index
        Number of the block in ``experiment.blocks``.

    Returns
    -------
    BlockScores
        A model that raises, or a block that cannot be read, is a failure with its cause, never a
        score.
    """
    set_threads(experiment.threads)
    block = experiment.blocks.block_at(index)
    scores = failed_block(experiment, index, {})
    for number, candidate in enumerate(experiment.candidates):
        scores.tiles[number] = _unscored(experiment, candidate, len(block.tiles))
    try:
        for places, window in windows(experiment, block):
            chosen = _unmasked(experiment, block.tiles[places])
            for group in parts_of(experiment, places.start + np.flatnonzero(chosen)):
                _score_tiles(experiment, block, window, group, scores)
    except (OSError, ValueError) as error:
        causes = {c.name: reason(error) for c in experiment.candidates}
        return failed_block(experiment, index, causes)
    return scores


def _score_tiles(
    experiment: Experiment,
    block: Block,
    window: Window,
    places: NDArray[np.int64],
    scores: BlockScores,
) -> None:
    """Score some tiles of a block under every model, in place."""
    models, tiles = len(experiment.candidates), [block.tiles[i] for i in places]
    overlaps = BankOverlaps(
        models,
        len(places),
        consensus="consensus" in experiment.bank_metrics,
        instances=experiment.instances,
    )
    for number, candidate in enumerate(experiment.candidates):
        if candidate.name in scores.failures:
            continue
        keep = partial(overlaps.keep, number) if experiment.bank_metrics else None
        try:
            scorer = TileScorer(experiment, loaded(experiment, candidate), window)
            score = partial(_score_model, scorer, candidate, tiles, keep)
            scores.tiles[number][:, places] = with_smaller_batches(scorer.ready, score)
        except Exception as error:  # foreign code: one model's fault must not stop the bank
            scores.failures[candidate.name] = reason(error)
            scores.mark([number], "failed")
            overlaps.forget(number)
    if scores.overlaps is not None:
        scores.overlaps[:, places] = overlaps.rows()
        failed = [i for i, c in enumerate(experiment.candidates) if c.name in scores.failures]
        without(scores.overlaps, failed, models)


def failed_block(experiment: Experiment, index: int, causes: dict[str, str]) -> BlockScores:
    """Return the scores of a block of which nothing was computed, with a cause per model."""
    models = len(experiment.candidates)
    draws = len(experiment.perturbations) * experiment.repeats
    tiles = experiment.blocks.tile_count(index)
    overlaps = np.full((overlap_rows(models), tiles), np.nan) if experiment.bank_metrics else None
    return BlockScores(index, unscored((models, draws, tiles), "failed"), causes, overlaps)


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
        scorer = TileScorer(experiment, loaded(experiment, candidate), window)
        for group in groups(np.arange(len(block.tiles)), scorer.ready):
            tiles = [block.tiles[i] for i in group]
            passes = scorer.predict(tiles, draws)
            for number, tile in enumerate(tiles):
                core = tuple(slice(0, s) for s in tile.shape)
                maps = [np.maximum.reduce(p.foreground)[number][core] for p in passes]
                yield candidate.name, tile, maps


def _unmasked(experiment: Experiment, tiles: Sequence[Tile]) -> NDArray[np.bool_]:
    """Return which of some tiles, a box of them, hold a voxel that the mask lets through."""
    mask = experiment.volume.read_mask(tiles[0].start, tiles[-1].stop)
    if mask is None:
        return np.ones(len(tiles), bool)
    window = Window(mask, tiles[0].start)
    return np.array([bool(window.frame(t.start, t.shape).any()) for t in tiles])


def _unscored(experiment: Experiment, candidate: Candidate, tiles: int) -> TileScores:
    """Return the numbers (draw, tile) of a model before any tile is scored."""
    supported = [candidate.supports(d.perturbation) for d in _draws(experiment)]
    scores = unscored((len(supported), tiles), "masked")
    scores.mark(~np.array(supported, bool), "unsupported")
    return scores


def _draws(experiment: Experiment) -> tuple[Draw, ...]:
    from cte_dask.perturb import draws_of

    return draws_of(experiment.perturbations, experiment.repeats)


def _score_model(
    scorer: TileScorer,
    candidate: Candidate,
    tiles: Sequence[Tile],
    keep: Keep | None,
) -> TileScores:
    """Return the numbers (draw, tile) of one model for some tiles."""
    draws = _draws(scorer.experiment)
    scores = _unscored(scorer.experiment, candidate, len(tiles))
    rows = np.array([i for i, d in enumerate(draws) if candidate.supports(d.perturbation)], int)
    possible = [draws[i] for i in rows]
    for group in groups(np.arange(len(tiles)), scorer.ready):
        chosen = [tiles[i] for i in group]
        scores[np.ix_(rows, group)] = scorer.score(chosen, possible, keep and _at(keep, group))
    return scores


def _at(keep: Keep, places: NDArray[np.int64]) -> Keep:
    """Return what keeps the tiles of a group that lies at some places."""
    return lambda good, reference, **limits: keep(places[good], reference, **limits)


def loaded(experiment: Experiment, candidate: Candidate) -> Predictor:
    """Return a candidate's network, loaded once a process."""
    from cte_dask.scoring.candidates import predictor

    return predictor(candidate, experiment.inference)
