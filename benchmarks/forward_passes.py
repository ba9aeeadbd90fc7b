"""Scoring in this process, and nothing but the forward passes that it runs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cte_dask.inference.graph.feature_path import example_masks
from cte_dask.inference.predictor import Predictor
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.score_block import score_block


def scored(experiment: Experiment) -> Callable[[], None]:
    """Every block of an experiment, from the voxels of the target to scores."""

    def run() -> None:
        for index in range(len(experiment.blocks)):
            scores = score_block(experiment, index)
            if scores.failures:
                raise RuntimeError(scores.failures)

    return run


def bare(experiment: Experiment, ready: Predictor | None = None) -> Callable[[], None]:
    """The passes of `scored`, on frames that are tensors already, by its model or another one."""
    ready = ready or predictor(experiment.candidates[0], experiment.inference)
    x, passes = ready.example(), ready.passes
    ones = example_masks(x, passes.path.channels, random=False)
    features = [ones for p in experiment.perturbations if p.space == "feature"]
    inputs = sum(p.space == "input" for p in experiment.perturbations)
    batches = -(-len(experiment.grid) // len(x))

    def run() -> None:
        with torch.inference_mode(), ready.arithmetic():
            for _ in range(batches):
                list(passes.run(x, features, core=passes.core))
                for _ in range(inputs):
                    list(passes.run(x, [], core=passes.core))

    return run


def plain(experiment: Experiment) -> Callable[[], None]:
    """The module itself, one pass for the reference and one a perturbation."""
    ready = predictor(experiment.candidates[0], experiment.inference)
    x, forward = ready.example(), ready.network.forward
    x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    passes = -(-len(experiment.grid) // len(x)) * (1 + len(experiment.perturbations))

    def run() -> None:
        with torch.inference_mode(), ready.arithmetic():
            for _ in range(passes):
                forward(x)

    return run
