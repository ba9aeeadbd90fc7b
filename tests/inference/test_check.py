from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cte_dask.inference.check import ModelReport, check_bank, check_spec
from cte_dask.inference.trial import check_model
from cte_dask.models.bank import ModelBank
from cte_dask.models.network import ModelError
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet

Make = Callable[..., ModelSpec]

FACTORIES = """
import os, signal, time

def talkative():
    from torch import nn
    print("a model that talks")
    os.system("echo and its children too")
    return nn.Conv2d(1, 1, 3, padding=1)

def leaving():
    os._exit(3)

def crashing():
    os.kill(os.getpid(), signal.SIGSEGV)

def hanging():
    time.sleep(600)

def busy():
    while True:
        pass

def empty():
    from torch import nn
    return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Infinite())

def Infinite():
    from torch import nn
    class Infinite(nn.Module):
        def forward(self, x):
            return x / 0
    return Infinite()
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec_of: Make) -> Make:
    (tmp_path / "odd_models.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: spec_of(f"odd_models:{name}", name=name, format="python", trust=True)


@pytest.mark.slow
def test_one_model_that_dies_does_not_stop_the_others(
    factory: Make,
) -> None:
    specs = (factory("leaving"), factory("crashing"), factory("talkative"))
    reports = check_bank(ModelBank(specs))
    assert [r.name for r in reports] == ["leaving", "crashing", "talkative"]
    assert [r.ok for r in reports] == [False, False, True]
    assert "exit code 3" in reports[0].reason
    assert reports[1].reason == "crashed with SIGSEGV"
    assert reports[2] == check_model(factory("talkative"))


def test_a_model_that_hangs_is_given_up(factory: Make) -> None:
    started = time.monotonic()
    report = check_spec(factory("hanging"), timeout=0.4)
    assert (report.ok, report.reason) == (False, "gave no answer within 2 s")
    assert time.monotonic() - started < 30


def test_a_model_that_computes_for_ever_is_given_up_by_its_own_time(factory: Make) -> None:
    report = check_spec(factory("busy"), timeout=3)
    assert (report.ok, report.reason) == (False, "gave no answer in 3 s of processor time")


def test_a_report_is_told_before_the_next_model_is_done_and_a_stop_waits_for_none(
    factory: Make,
) -> None:
    told: list[str] = []

    def stop(report: ModelReport) -> None:
        told.append(report.name)
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        check_bank(ModelBank((factory("talkative"), factory("hanging"))), take=stop)
    assert told == ["talkative"]
    assert time.monotonic() - started < 60, "the other one may hang for ten minutes"


def test_a_usable_model_is_described(weights: Path, spec_of: Make, unet: UNet) -> None:
    report = check_model(spec_of(weights))
    assert report.ok
    assert report.input_shape == (1, 1, 64, 64)
    assert report.output_shape == (1, 1, 64, 64)
    assert report.parameters == sum(p.numel() for p in unet.parameters())
    assert report.multiple == (1, 2, 2)
    assert report.halo is not None
    assert 0 < report.halo[1] <= 10
    assert (report.greybox, report.bottleneck) == ("grey box", ("encoders.1",))


def test_what_the_bank_declares_is_kept_and_a_short_halo_is_noted(
    weights: Path, spec_of: Make
) -> None:
    report = check_model(spec_of(weights, halo={"y": 0, "x": 1}, multiple={"y": 4, "x": 8}))
    assert (report.halo, report.multiple) == ((0, 0, 1), (1, 4, 8))
    assert any("is below the measured" in note for note in report.notes)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"output": {"channel": 1}}, "output.channel 1 does not exist: the network has 1"),
        ({"in_channels": 2}, "channels"),
        ({"bottleneck": "encoders.9"}, "encoders.9"),
        ({"axes": "zyx"}, "no input extent"),
    ],
)
def test_a_model_that_does_not_run_a_tile_says_why(
    keys: dict[str, object], expected: str, weights: Path, spec_of: Make
) -> None:
    with pytest.raises(ModelError, match="model 'small': ") as caught:
        check_model(spec_of(weights, **keys))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_bottleneck_is_a_black_box(factory: Make) -> None:
    report = check_model(factory("talkative"))
    assert report.ok
    assert report.bottleneck == ()
    assert report.greybox.startswith("black box: ")


def test_a_prediction_that_is_not_finite_is_a_reason(factory: Make) -> None:
    with pytest.raises(ModelError, match="NaN or infinity"):
        check_model(factory("empty"))


def test_a_program_of_fixed_extents_is_run_at_them(
    unet: UNet, tmp_path: Path, spec_of: Make, export: Callable[..., torch.export.ExportedProgram]
) -> None:
    torch.export.save(export(unet, fixed=True), tmp_path / "f.pt2")
    report = check_model(spec_of(tmp_path / "f.pt2", format="torch_export"))
    assert report.input_shape == (1, 1, 32, 32)
    assert report.multiple == (1, 32, 32)
    assert report.halo == (0, 8, 8), "a quarter: most of the window is seen"
    assert any("it takes 32×32 voxels alone" in note for note in report.notes)


def test_a_3d_model_is_run_on_a_box(tmp_path: Path, spec_of: Make) -> None:
    network = UNet(dims=3, features=(2, 4)).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    arguments = {"dims": 3, "features": [2, 4]}
    report = check_model(spec_of(tmp_path / "w.pt", axes="zyx", arguments=arguments))
    assert report.input_shape == (1, 1, 16, 32, 32)
    assert report.multiple == (2, 2, 2)
    assert report.halo is not None
    assert report.halo[0] > 0


def test_a_report_is_plain_data(weights: Path, spec_of: Make) -> None:
    report = check_model(spec_of(weights))
    assert json.loads(json.dumps(asdict(report)))["bottleneck"] == ["encoders.1"]
