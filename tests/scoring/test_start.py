"""What a run does before its first tile, counted: passes, traces and probes of its networks."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import blobs, write_bank

from cte_dask.inference.graph import feature_path as feature
from cte_dask.inference.graph import trace_cache
from cte_dask.models import load_bank
from cte_dask.models.unet import UNet
from cte_dask.scoring import loaded
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.volume import open_volume

MODELS = 4
FRAME = 144
"""Extent of a frame: a tile of 128 voxels and a halo of 8."""


@pytest.fixture
def passes(monkeypatch, empty_cache) -> list[tuple[int, int]]:
    """Collects what plain passes see: identity of the network, voxels; nothing is remembered."""
    calls: list[tuple[int, int]] = []
    forward = UNet.forward

    def counted(self, image):
        calls.append((id(self), image.numel()))
        return forward(self, image)

    monkeypatch.setattr(UNet, "forward", counted)
    forget(monkeypatch)
    return calls


@pytest.fixture
def traces(monkeypatch) -> list[tuple[int, ...]]:
    """Collects the shapes that are traced."""
    shapes: list[tuple[int, ...]] = []
    real = feature.traced
    monkeypatch.setattr(feature, "traced", lambda f, *x: shapes.append(x[0].shape) or real(f, *x))
    return shapes


def forget(monkeypatch) -> None:
    loaded.READY.clear()
    for name in ("_KEPT", "_FORMS"):
        monkeypatch.setattr(trace_cache, name, type(getattr(trace_cache, name))())


def settled(folder):
    return resolve(
        open_volume(blobs((1, 256, 256))),
        load_bank(write_bank(folder, MODELS)),
        perturbations=["dropout:0.2"],
        tile=(1, 128, 128),
        batch=1,
    )


def whole(calls: list[tuple[int, int]]) -> list[int]:
    """Count the passes of each network over a whole frame, in the order of their first pass."""
    counts = Counter(number for number, size in calls if size >= FRAME**2)
    return list(counts.values())


def test_one_architecture_is_proven_once_and_each_network_but_the_first_sees_one_whole_frame(
    tmp_path, passes, traces
):
    settled(tmp_path)
    first, *others = whole(passes)
    assert first <= 5, "search for the bottleneck, its channels, a trace, a second input, a tile"
    assert others == [1] * (MODELS - 1), "a tile of the target"
    assert [tuple(s) for s in traces] == [(1, 1, FRAME, FRAME), (1, 1, 64, 64)]


def test_what_was_proven_when_a_model_was_tried_is_not_proven_again_by_a_worker(
    tmp_path, passes, monkeypatch
):
    experiment = settled(tmp_path)
    here = [score_block(experiment, i) for i in range(len(experiment.blocks))]
    forget(monkeypatch)
    passes.clear()
    sent = pickle.loads(pickle.dumps(experiment))
    for candidate in sent.candidates:
        loaded.predictor(candidate, sent.inference)
    assert whole(passes) == [1], "the trace of the first"
    for index, scores in enumerate(here):
        there = score_block(sent, index)
        for name, values in scores.tiles.statistics.items():
            np.testing.assert_array_equal(there.tiles.statistics[name], values)


def test_a_proof_of_another_processor_or_batch_does_not_hold(tmp_path, passes, monkeypatch):
    experiment = settled(tmp_path)
    candidate = experiment.candidates[0]
    proof = candidate.proof
    assert proof.holds(proof.shape, "cpu")
    assert not proof.holds((2, *proof.shape[1:]), "cpu")
    forget(monkeypatch)
    passes.clear()
    monkeypatch.setattr("cte_dask.inference.graph.paths.place", lambda _: "elsewhere")
    assert not proof.holds(proof.shape, "cpu")
    path = loaded.predictor(candidate, experiment.inference).path
    assert whole(passes) == [3], "channels, a trace, a second input"
    assert (path.layers, path.channels) == (proof.layers, proof.channels)


def test_a_halo_is_measured_in_few_small_passes(passes):
    from cte_dask.inference.halo import measure_halo

    torch.manual_seed(0)
    network = UNet(dims=2, features=(4, 8, 8, 8)).eval()
    halo = measure_halo(network, dims=2, multiple=8, tolerance=0).zyx
    assert halo[1:] == (46, 44)
    # half a core of 16, 32, 64 voxels fails with the first outside; 128 is compared with all four
    assert len(passes) == 2 * (3 * 2 + 6)
