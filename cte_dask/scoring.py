"""The method, in one process: one block of the target, read once, scored for every model.

No prediction leaves the device it was made on; a few numbers a tile come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.arrays import namespace
from cte_dask.consistency import STATISTICS
from cte_dask.reason import reason
from cte_dask.statistics import PAIRS, tile_statistics
from cte_dask.tiles import Block, Shape, Tile
from cte_dask.window import Window, read_window, shifted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.experiment import Candidate, Experiment
    from cte_dask.outputs import Prediction
    from cte_dask.perturb.draw import Draw
    from cte_dask.predict import Predictor
    from cte_dask.views import View

__all__ = [
    "COLUMNS",
    "STATUS",
    "BlockScores",
    "failed_block",
    "loaded",
    "predict_tiles",
    "score_block",
]

STATUS = {
    "absent": 0,  # not computed
    "scored": 1,
    "masked": 2,  # outside the mask: no inference ran
    "non_finite_input": 3,  # NaN or infinity among the voxels the model would see
    "non_finite_output": 4,  # the model gave NaN
    "unsupported": 5,  # the model has no such perturbation
    "failed": 6,  # an error; its cause is in the ledger
}
COLUMNS = (*STATISTICS, *PAIRS, "status")


@dataclass(frozen=True, slots=True)
class BlockScores:
    """The numbers of one block.

    Parameters
    ----------
    index
        Number of the block.
    values
        float64 (model, draw, column, tile); the columns are `COLUMNS`.
    failures
        Cause of failure per model name; empty when all went well.
    """

    index: int
    values: NDArray[np.float64]
    failures: dict[str, str]


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
    import torch

    torch.set_num_threads(experiment.threads)
    block = experiment.blocks.block_at(index)
    scores = failed_block(experiment, index, {})
    try:
        window = read_window(experiment, block)
        chosen = _unmasked(experiment, block)
    except (OSError, ValueError) as error:
        causes = {c.name: reason(error) for c in experiment.candidates}
        return failed_block(experiment, index, causes)
    for number, candidate in enumerate(experiment.candidates):
        try:
            scores.values[number] = _score_model(experiment, candidate, block, window, chosen)
        except Exception as error:  # foreign code: one model's fault must not stop the bank
            scores.failures[candidate.name] = reason(error)
    return scores


def failed_block(experiment: Experiment, index: int, causes: dict[str, str]) -> BlockScores:
    """Return the scores of a block of which nothing was computed, with a cause per model."""
    draws = len(experiment.perturbations) * experiment.repeats
    tiles = experiment.blocks.tile_count(index)
    values = np.full((len(experiment.candidates), draws, len(COLUMNS), tiles), np.nan)
    values[:, :, -1] = STATUS["failed"]
    return BlockScores(index, values, causes)


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
        ready = loaded(experiment, candidate)
        for group in _groups(np.arange(len(block.tiles)), ready):
            tiles = [block.tiles[i] for i in group]
            passes = _run(experiment, ready, tiles, draws, window)
            for number, tile in enumerate(tiles):
                core = tuple(slice(0, s) for s in tile.shape)
                maps = [np.maximum.reduce(p.foreground)[number][core] for p in passes]
                yield candidate.name, tile, maps


def _unmasked(experiment: Experiment, block: Block) -> NDArray[np.bool_]:
    mask = experiment.volume.read_mask(block.start, block.stop)
    if mask is None:
        return np.ones(len(block.tiles), bool)
    window = Window(mask, block.start)
    return np.array([bool(window.frame(t.start, t.shape).any()) for t in block.tiles])


def _score_model(
    experiment: Experiment,
    candidate: Candidate,
    block: Block,
    window: Window,
    chosen: NDArray[np.bool_],
) -> NDArray[np.float64]:
    from cte_dask.perturb.draw import draws_of

    ready = loaded(experiment, candidate)
    draws = draws_of(experiment.perturbations, experiment.repeats)
    values = np.full((len(draws), len(COLUMNS), len(block.tiles)), np.nan)
    supported = [candidate.supports(d.perturbation) for d in draws]
    values[:, -1] = np.where(supported, STATUS["masked"], STATUS["unsupported"])[:, None]
    possible = [d for d, yes in zip(draws, supported, strict=True) if yes]
    rows = np.flatnonzero(supported)
    for group in _groups(np.flatnonzero(chosen), ready):
        tiles = [block.tiles[i] for i in group]
        columns = _score_tiles(experiment, ready, tiles, possible, window)
        values[np.ix_(rows, np.arange(len(COLUMNS)), group)] = columns
    return values


def loaded(experiment: Experiment, candidate: Candidate) -> Predictor:
    """Return a candidate's network, loaded once a process."""
    from cte_dask.candidates import predictor

    return predictor(
        candidate,
        tile=experiment.grid.tile,
        device=experiment.device,
        precision=experiment.precision,
        features=any(p.space == "feature" for p in experiment.perturbations),
        instances=experiment.instances,
    )


def _groups(indices: NDArray[np.int64], ready: Predictor) -> Iterator[NDArray[np.int64]]:
    """Cut tiles into groups that fill about one batch."""
    planes = 1 if ready.spec.dims == 3 else ready.tile[0]
    size = max(1, ready.batch // planes)
    for low in range(0, len(indices), size):
        yield indices[low : low + size]


def _score_tiles(
    experiment: Experiment,
    ready: Predictor,
    tiles: Sequence[Tile],
    draws: Sequence[Draw],
    window: Window,
) -> NDArray[np.float64]:
    """Return (draw, column, tile) for some tiles of one model."""
    xp = namespace(window.voxels)
    views = [ready.view(d.perturbation) for d in draws]
    boxes = {ready.view(None).box, *(v.box for v in views)}
    finite = [all(bool(xp.isfinite(_box(window, t, b)).all()) for b in boxes) for t in tiles]
    values = np.full((len(draws), len(COLUMNS), len(tiles)), np.nan)
    values[:, -1] = STATUS["non_finite_input"]
    good = [i for i, fine in enumerate(finite) if fine]
    if not good or not draws:
        return values
    whole = [tiles[i] for i in good]
    reference, *perturbed = _run(experiment, ready, whole, draws, window)
    cores = [tuple(slice(0, s) for s in t.shape) for t in whole]
    for number, prediction in enumerate(perturbed):
        counts = tile_statistics(
            reference,
            prediction,
            cores=cores,
            threshold=0.0 if ready.spec.output.classes else ready.spec.output.threshold,
            border=experiment.border,
        )
        values[number][:-1, good] = counts.T
        broken = counts[:, STATISTICS.index("n_nan")] > 0
        values[number][-1, good] = np.where(broken, STATUS["non_finite_output"], STATUS["scored"])
    return values


def _run(
    experiment: Experiment,
    ready: Predictor,
    tiles: Sequence[Tile],
    draws: Sequence[Draw],
    window: Window,
) -> list[Prediction]:
    def around(view: View) -> Any:
        boxes = [_box(window, tile, view.box) for tile in tiles]
        return namespace(window.voxels).stack(boxes).astype("float32")

    if experiment.intensity is None:
        raise ValueError("the target's intensities were not sampled: resolve with sample=True")
    return ready.run(
        around(ready.view(None)),
        tiles,
        draws,
        intensity=experiment.intensity,
        seed=experiment.seed,
        around=around,
    )


def _box(window: Window, tile: Tile, box: tuple[Shape, Shape]) -> Any:
    before, shape = box
    return window.frame(shifted(tile.start, before, -1), shape)
