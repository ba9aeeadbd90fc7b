"""What runs a model's passes is chosen once, recorded, and changes scores by rounding alone."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import blobs, write_bank
from torch import Tensor, nn

import cte_dask
from cte_dask.engine import anytime
from cte_dask.inference import runtime_trial
from cte_dask.inference.graph import trace_cache
from cte_dask.inference.graph.inductor_passes import InductorPasses
from cte_dask.inference.graph.openvino_passes import OpenVinoPasses
from cte_dask.inference.settings import TORCH, Runtime
from cte_dask.models import load_bank
from cte_dask.models.unet import UNet
from cte_dask.perturb import Perturbation
from cte_dask.ranking import options as rank_options
from cte_dask.ranking.options import PlanOptions, RankOptions
from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.experiment_file import reopen
from cte_dask.scoring import runtimes
from cte_dask.scoring.loaded import load_candidate, predictor
from cte_dask.scoring.resolve import experiment_of, resolve
from cte_dask.scoring.runtimes import RuntimeChoice
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume, write_ome_zarr

DROPOUT = [Perturbation.parse("dropout:0.5")]
OPTIONS = {"tile": (1, 32, 32), "perturbations": ["dropout:0.5", "gaussian:0.1"]}


@pytest.fixture
def bank_file(tmp_path):
    return write_bank(tmp_path, 2, halo=4)


@pytest.fixture
def bank(bank_file):
    return load_bank(bank_file)


@pytest.fixture
def volume():
    return open_volume(blobs((2, 64, 64)))


def settled(volume, bank, **options):
    return resolve(volume, bank, **{**OPTIONS, **options})


def model(volume, bank, **options):
    """A model that is loaded, and run by torch."""
    experiment = settled(volume, bank, **options)
    return predictor(experiment.candidates[0], experiment.inference)


class Clock:
    """Gives the times at which work began and ended."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds, self.running = 0.0, list(seconds), False

    def perf_counter(self) -> float:
        if self.running:
            self.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        self.running = not self.running
        return self.now


def timed(monkeypatch, *, compiling: float, openvino: float, torch: float) -> None:
    seconds = [compiling, *[openvino, torch] * runtime_trial.ROUNDS]
    monkeypatch.setattr(runtime_trial, "time", Clock(*seconds))


def test_scores_differ_by_rounding_alone(volume, bank):
    plain, compiled = (
        cte_dask.score(volume, bank, metrics=["nhd", "ei"], runtime=name, **OPTIONS).compute()
        for name in ("torch", "openvino")
    )
    np.testing.assert_allclose(compiled.ei, plain.ei, atol=1e-4)
    # a voxel at the threshold may fall to either side
    np.testing.assert_allclose(compiled.nhd, plain.nhd, atol=5e-3)


def test_the_compiled_passes_are_what_runs(volume, bank, monkeypatch):
    calls = []
    run = OpenVinoPasses.run

    def counted(self, x, masks, **options):
        calls.append(len(masks))
        return run(self, x, masks, **options)

    experiment = settled(volume, bank, runtime="openvino")
    assert [c.runtime.name for c in experiment.candidates] == ["openvino"] * 2
    monkeypatch.setattr(OpenVinoPasses, "run", counted)
    cte_dask.score(volume, bank, runtime="torch", **OPTIONS).compute()
    assert not calls
    cte_dask.score(volume, bank, runtime="openvino", **OPTIONS).compute()
    assert {0, 1} <= set(calls)


def test_a_short_run_tries_nothing(volume, bank, monkeypatch):
    monkeypatch.setattr(OpenVinoPasses, "run", None)
    assert [c.runtime for c in settled(volume, bank).candidates] == [TORCH, TORCH]


def test_a_long_run_takes_what_is_faster_and_tells_so(volume, bank, monkeypatch):
    monkeypatch.setattr(runtimes, "LONG_SECONDS", 0.0)
    timed(monkeypatch, compiling=0.5, openvino=10.0, torch=20.0)
    told = []
    first, _ = settled(volume, bank, tell=told.append).candidates
    assert first.runtime == Runtime("openvino", 2.0, 0.5)
    assert "model-0: passes by openvino: 2 times as fast, compiled in 0.5 s" in told


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ({"compiling": 0.1, "openvino": 1.0, "torch": 1.05}, "OpenVINO is 1 times as fast"),
        (
            {"compiling": 100.0, "openvino": 1.0, "torch": 2.0},
            "compiling takes 100.0 s, and would save 3.0 s",
        ),
    ],
)
def test_what_does_not_pay_is_left_to_torch(volume, bank, monkeypatch, seconds, why):
    ready = model(volume, bank, batch=1)
    timed(monkeypatch, **seconds)
    choice = RuntimeChoice("auto", tiles=3)
    runtime = choice.choose("model-0", ready, DROPOUT, seconds=1e9)
    assert (runtime.name, runtime.why) == ("torch", why)
    assert ready.passes.compiled is None
    assert runtime.to_dict()["why"] == why


EACH = {**OPTIONS, "batch": 1, "block": (1, 1, 1)}


@pytest.mark.parametrize(
    ("options", "tiles"),
    [
        (PlanOptions(**EACH), 8),
        (PlanOptions(**EACH, until="decided"), 3),
        (PlanOptions(**EACH, until="decided", workers=2), 2),
        (PlanOptions(**EACH, until="2"), 2),
        (PlanOptions(**EACH, full_order=True), 5),
        (PlanOptions(**EACH, full_order=True, rank_by="consistency"), 8),
        (RankOptions(**EACH, shard="1/2", workers=2), 4),
    ],
    ids=["all", "decided", "by two", "two blocks", "tables of votes", "all blocks", "a shard"],
)
def test_compiling_pays_by_the_tiles_that_a_run_is_expected_to_score(
    volume, bank, monkeypatch, options, tiles
):
    monkeypatch.setattr(runtimes, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(rank_options, "TYPICAL_BLOCKS", (3, 6))
    monkeypatch.setattr(anytime, "MOST_VOTING_TILES", 5)
    timed(monkeypatch, compiling=1000.0, openvino=1.0, torch=2.0)
    first, _ = experiment_of(volume, bank, options).candidates
    assert first.runtime.why == f"compiling takes 1000.0 s, and would save {tiles:.1f} s"


def test_a_budget_of_time_bounds_what_compiling_can_save(volume, bank, monkeypatch):
    ready = model(volume, bank, batch=1)
    timed(monkeypatch, compiling=1000.0, openvino=1.0, torch=2.0)
    assert (
        RuntimeChoice("auto", tiles=10**6, seconds=59.0).choose(
            "model-0", ready, DROPOUT, seconds=0.5
        )
        == TORCH
    ), "too short for a trial, however large the target"
    runtime = RuntimeChoice("auto", tiles=10**6, seconds=90.0).choose(
        "model-0", ready, DROPOUT, seconds=0.5
    )
    assert runtime.why == "compiling takes 1000.0 s, and would save 180.0 s"


def test_a_run_tells_its_budget_of_time(volume, bank, monkeypatch):
    monkeypatch.setattr(runtimes, "LONG_SECONDS", 0.0)
    timed(monkeypatch, compiling=1000.0, openvino=1.0, torch=2.0)
    options = PlanOptions(**EACH, until="0.000001s")
    first, _ = experiment_of(volume, bank, options).candidates
    assert first.runtime.why == "compiling takes 1000.0 s, and would save 0.0 s"


def test_predictions_that_differ_are_never_used(volume, bank, monkeypatch):
    real = OpenVinoPasses.run

    def off(self, x, masks, **options):
        return [y + 0.01 for y in real(self, x, masks, **options)]

    monkeypatch.setattr(OpenVinoPasses, "run", off)
    for candidate in settled(volume, bank, runtime="openvino").candidates:
        assert candidate.runtime.name == "torch"
        assert candidate.runtime.why == "the predictions of OpenVINO differ"


def test_a_real_tile_has_the_last_word(volume, bank, monkeypatch):
    real = OpenVinoPasses.run

    def off(self, x, masks, **options):
        outputs = real(self, x, masks, **options)
        is_noise = abs(float(x.mean()) - 0.5) < 0.02
        return outputs if is_noise else [y + 1 for y in outputs]

    monkeypatch.setattr(OpenVinoPasses, "run", off)
    for candidate in settled(volume, bank, runtime="openvino").candidates:
        assert candidate.runtime.why == "OpenVINO differs on a tile of the target"
        assert candidate.runtime.name == "torch"
        assert not candidate.whole


class Uncommon(UNet):
    """Ends in an operation that no front end knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0e(super().forward(x))


def test_a_network_that_cannot_be_compiled_is_run_by_torch(volume, bank):
    ready = model(volume, bank)
    torch.manual_seed(0)
    network: nn.Module = Uncommon(dims=2, features=(4, 6, 8)).eval().requires_grad_(False)
    ready.network = replace(ready.network, forward=network, code="")
    ready.open()
    runtime = RuntimeChoice("openvino").choose("model-0", ready, DROPOUT, seconds=0.0)
    assert runtime.name == "torch"
    assert runtime.why.startswith("OpenVINO cannot compile it")
    ready.check()


def test_low_precision_is_not_compiled(volume, bank):
    experiment = settled(volume, bank)
    inference = replace(experiment.inference, precision="bfloat16")
    ready = load_candidate(experiment.candidates[0], inference)
    assert RuntimeChoice("openvino").choose("model-0", ready, DROPOUT, seconds=0.0) == TORCH


@pytest.mark.parametrize("name", ["jax", "OpenVINO"])
def test_an_unknown_runtime_is_refused(volume, bank, name):
    with pytest.raises(ValueError, match=f"--runtime '{name}' must be one of auto, torch"):
        settled(volume, bank, runtime=name)


def test_each_runtime_is_offered_where_it_runs(volume, bank):
    with pytest.raises(ValueError, match="inductor is of NVIDIA GPUs, not of cpu: use auto"):
        settled(volume, bank, runtime="inductor", device="cpu")
    with pytest.raises(ValueError, match="openvino is of processors, not of cuda: use auto"):
        runtimes.check_runtime("openvino", "cuda")
    for name in ("auto", "torch", "inductor"):
        runtimes.check_runtime(name, "cuda")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this machine")
def test_what_a_gpu_would_try_is_tried_alike(volume, bank, monkeypatch):
    """The trial of a GPU, for want of one, on the processor."""
    monkeypatch.setitem(runtime_trial.COMPILER, "cpu", "inductor")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for name in ("_KEPT", "_FORMS"):  # graphs of other tests have oneDNN's operations in them
        monkeypatch.setattr(trace_cache, name, OrderedDict())
    ready = model(volume, bank, batch=1)
    runtime = RuntimeChoice("inductor").choose("model-0", ready, DROPOUT, seconds=0.0)
    assert runtime == Runtime("inductor")
    assert runtime.compile_seconds > 0
    assert isinstance(ready.passes.compiled, InductorPasses)
    ready.check()
    timed(monkeypatch, compiling=0.5, openvino=1.05, torch=1.0)
    runtime = RuntimeChoice("auto", tiles=9).choose("model-0", ready, DROPOUT, seconds=1e9)
    assert (runtime.name, runtime.why) == ("torch", "inductor is 0.95 times as fast")
    assert runtime_trial.withdrawn(Runtime("inductor"), ready).why == (
        "inductor differs on a tile of the target"
    )


def test_what_was_chosen_is_recorded_and_taken_again(bank_file, tmp_path, monkeypatch):
    target, out = tmp_path / "target.zarr", tmp_path / "RUN"
    write_ome_zarr(
        target, blobs((2, 64, 64)), axes="zyx", voxel_size_nm=(40.0, 10.0, 10.0), chunks=(1, 32, 32)
    )
    arguments = TargetOptions(str(target)), str(bank_file), str(out)
    options = {"cluster": "none", "block": (1, 2, 2), **OPTIONS}
    first = rank_target(*arguments, runtime="openvino", **options)
    models = yaml.safe_load((out / "experiment.yaml").read_text())["models"]
    assert [m["runtime"] for m in models] == ["openvino", "openvino"]
    assert all(m["runtime_trial"]["compile_seconds"] > 0 for m in models)
    assert reopen(str(out)) == replace(first.experiment, excluded={})
    # the rest of a run, whatever it would choose now
    again = rank_target(*arguments, resume=True, **options)
    assert again.experiment.digest() == first.experiment.digest()
    assert json.dumps(again.result["models"]) == json.dumps(first.result["models"])
    with pytest.raises(ValueError, match="another"):
        rank_target(*arguments, resume=True, runtime="torch", **options)
