"""Evaluation of one block, in one process: reference predictions against labels.

Labels and features are read here for evaluation alone; nothing here changes a score of a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from cte_dask.arrays import set_threads, to_numpy
from cte_dask.errors import FOREIGN, reason
from cte_dask.evaluation.comparators.ccfv import TileFeatures
from cte_dask.evaluation.comparators.confidence import foreground_confidence, foreground_entropy
from cte_dask.evaluation.comparators.decoder_features import (
    Captured,
    DecoderLayer,
    captured,
    decoder_layers,
    drawn_voxels,
    sampled_features,
)
from cte_dask.evaluation.labels import read_labels
from cte_dask.evaluation.result import MEASURES
from cte_dask.inference.graph.bottleneck import BlackBoxError
from cte_dask.scoring.block_reader import Window, read_window
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.score_tiles import TileScorer
from cte_dask.scoring.tile_accuracy import accuracy_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.outputs import Prediction
    from cte_dask.inference.predictor import Predictor
    from cte_dask.inference.settings import Inference
    from cte_dask.models.network import Network
    from cte_dask.models.spec import ModelSpec
    from cte_dask.scoring.experiment import Candidate, Experiment
    from cte_dask.tiles import Block, Tile
    from cte_dask.volume import Volume

__all__ = ["BlockEvaluation", "BlockTask", "empty_evaluation", "evaluate_block"]

_DECODERS: WeakKeyDictionary[Network, tuple[DecoderLayer, ...] | str] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, eq=False)
class BlockTask:
    """The models and tiles of a block that are evaluated.

    Parameters
    ----------
    index
        Number of the block.
    scored
        Whether a model scored a tile in the run, bool (model, tile).
    featured
        Numbers of the tiles whose features CCFV compares.
    """

    index: int
    scored: NDArray[np.bool_]
    featured: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class BlockEvaluation:
    """Measures of one block.

    Parameters
    ----------
    tiles
        Numbers of the block's tiles, (tile,).
    labelled
        Voxels of each tile that the labels call foreground, (tile,).
    values
        float64 (model, `MEASURES`, tile), NaN where there is nothing to measure.
    features
        (Model, tile) → its `TileFeatures` for CCFV, one a decoder layer.
    failures
        Why a model failed, by name.
    unreached
        Why a model's features cannot be read, by name.
    """

    tiles: NDArray[np.int64]
    labelled: NDArray[np.int64]
    values: NDArray[np.float64]
    features: dict[tuple[str, int], tuple[TileFeatures, ...]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)


def evaluate_block(experiment: Experiment, labels: Volume, task: BlockTask) -> BlockEvaluation:
    """Predict a block's tiles once more, unperturbed, and measure them.

    Parameters
    ----------
    experiment
        The run.
    labels
        From `cte_dask.evaluation.labels.open_labels`.
    task
        The models and tiles to evaluate.

    Returns
    -------
    BlockEvaluation
        A model that raises an error has a cause and no measures.

    Raises
    ------
    OSError, ValueError
        If the target or the labels cannot be read.
    """
    set_threads(experiment.threads)
    block = experiment.blocks.block_at(task.index)
    window = read_window(experiment, block)
    truth = {t.index: read_labels(labels, t.start, t.stop) for t in block.tiles}
    evaluation = empty_evaluation(block, len(experiment.candidates))
    evaluation.labelled[:] = [np.count_nonzero(truth[t.index]) for t in block.tiles]
    scene = _Scene(experiment, window, truth, task.featured, evaluation)
    for number, candidate in enumerate(experiment.candidates):
        tiles = [t for t, scored in zip(block.tiles, task.scored[number], strict=True) if scored]
        try:
            for tile, measured in _measured(scene, candidate, tiles):
                evaluation.values[number, :, tile.index == evaluation.tiles] = measured
        except FOREIGN as error:  # foreign code: one model's fault must not stop the bank
            evaluation.values[number] = math.nan
            evaluation.failures[candidate.name] = reason(error)
    return evaluation


def empty_evaluation(
    block: Block, models: int, failures: Mapping[str, str] | None = None
) -> BlockEvaluation:
    """Return a block in which nothing was measured, nor labels counted, with a cause per model.

    Parameters
    ----------
    block
        The block.
    models
        Number of the models.
    failures
        Why a model failed, by name.
    """
    tiles = np.array([t.index for t in block.tiles], np.int64)
    values = np.full((models, len(MEASURES), len(tiles)), math.nan)
    labelled = np.zeros(len(tiles), np.int64)
    return BlockEvaluation(tiles, labelled, values, failures=dict(failures or {}))


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """Inputs that all models of a block share, and the evaluation that they fill."""

    experiment: Experiment
    window: Window
    truth: Mapping[int, NDArray[Any]]
    featured: frozenset[int]
    evaluation: BlockEvaluation


def _measured(
    scene: _Scene, candidate: Candidate, tiles: Sequence[Tile]
) -> Iterator[tuple[Tile, list[float]]]:
    """Yield each tile's measures."""
    ready = _loaded(candidate, scene.experiment.inference)
    layers = _decoder(ready) if scene.featured else ()
    if isinstance(layers, str):
        scene.evaluation.unreached[candidate.name] = layers
        layers = ()
    # A 2D model predicts each plane of a tile as a sample of its own: fewer tiles fill a batch.
    planes = 1 if ready.spec.dims == 3 else ready.tile[0]
    size = max(1, ready.batch // planes)
    for low in range(0, len(tiles), size):
        group = tiles[low : low + size]
        hooked = layers if any(t.index in scene.featured for t in group) else ()
        with _captured_layers(ready, hooked) as outputs:
            prediction = _predicted(scene, ready, candidate.channels, group)
        for number, tile in enumerate(group):
            truth = scene.truth[tile.index]
            if hooked and tile.index in scene.featured:
                drawn = drawn_voxels(tile, truth, scene.experiment.seed)
                features = sampled_features(ready, outputs, number, drawn)
                scene.evaluation.features[candidate.name, tile.index] = features
            core = tuple(slice(0, s) for s in tile.shape)
            maps = [to_numpy(m[number])[core] for m in prediction.foreground]
            labels = prediction.labels
            instances = None if labels is None else to_numpy(labels[number])[core]
            yield tile, _measures(ready.spec, np.maximum.reduce(maps), instances, truth)


@contextmanager
def _captured_layers(ready: Predictor, layers: Sequence[DecoderLayer]) -> Iterator[Captured]:
    """Capture the outputs of layers; the network runs untraced, since a trace has no modules."""
    passes = ready.passes
    ready.passes = replace(passes, path=None) if layers else passes
    try:
        with captured(ready.network.forward, layers) as outputs:
            yield outputs
    finally:
        ready.passes = passes


def _loaded(candidate: Candidate, inference: Inference) -> Predictor:
    """Return a candidate's network without feature perturbation."""
    return predictor(candidate, replace(inference, features=False))


def _decoder(ready: Predictor) -> tuple[DecoderLayer, ...] | str:
    """Return the decoder's layers, or why there are none; searched once a process."""
    if ready.network not in _DECODERS:
        try:
            _DECODERS[ready.network] = decoder_layers(ready.network, ready.example())
        except (BlackBoxError, RuntimeError) as error:
            _DECODERS[ready.network] = reason(error)
    return _DECODERS[ready.network]


def _predicted(
    scene: _Scene, ready: Predictor, channels: tuple[int, ...], tiles: Sequence[Tile]
) -> Prediction:
    scorer = TileScorer(scene.experiment, ready, scene.window, channels)
    return scorer.predict(tiles, [])[0]


def _measures(
    spec: ModelSpec,
    probability: NDArray[np.floating],
    instances: NDArray[Any] | None,
    truth: NDArray[Any],
) -> list[float]:
    """Return the `MEASURES` of one tile."""
    f1, precision = accuracy_of(spec, probability, instances, truth)
    threshold = spec.output.map_threshold
    if (
        spec.output.activation == "labels"
    ):  # labels have no probability, so neither entropy nor confidence
        return [f1, precision, math.nan, math.nan]
    return [
        f1,
        precision,
        foreground_entropy(probability, threshold=threshold),
        foreground_confidence(probability, threshold=threshold),
    ]
