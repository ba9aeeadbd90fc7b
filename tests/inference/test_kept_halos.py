"""Halos are kept between runs, and count only as long as the network is the same."""

from __future__ import annotations

import json
import os

import pytest
import torch
from conftest import write_bank
from torch import nn

from cte_dask.inference import needs
from cte_dask.inference.halo import measure_halo, still_gives
from cte_dask.models import load_bank
from cte_dask.models.loading import load_network
from cte_dask.models.unet import UNet

TWO_AXES = 2


@pytest.fixture
def passes(monkeypatch, empty_cache) -> list[tuple[int, ...]]:
    """Collects the shapes of all that U-Nets see; no halo is kept yet."""
    shapes: list[tuple[int, ...]] = []
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, x: shapes.append(x.shape) or forward(self, x))
    return shapes


@pytest.fixture
def spec(tmp_path):
    (spec,) = load_bank(write_bank(tmp_path / "bank", 1))
    return spec.model_copy(update={"multiple": {"y": 4, "x": 4}, "halo": None})


def measured(spec):
    return needs.halo_of(spec, load_network(spec))


def test_a_halo_that_was_measured_before_costs_a_pass_an_axis(spec, passes):
    first = measured(spec)
    assert len(passes) > 10
    passes.clear()
    assert measured(spec) == first
    assert len(passes) == TWO_AXES
    assert {tuple(shape) for shape in passes} == {w.shape for w in first.witnesses}


def test_a_network_that_changed_under_the_same_name_is_measured_again(spec, passes, monkeypatch):
    first, forward = measured(spec), UNet.forward
    passes.clear()
    wide = nn.Conv2d(1, 1, 9, padding=4)
    monkeypatch.setattr(UNet, "forward", lambda self, x: forward(self, wide(x)))
    second = measured(spec)
    assert second.zyx != first.zyx
    assert len(passes) > 10


def test_a_network_is_known_by_its_largest_frames():
    """One that sees farther where there is more to see may give the same of a small image."""
    halo = measure_halo(lambda x: x, dims=2, multiple=1)
    largest = max(w.shape[-1] for w in halo.witnesses)

    def seeing_farther(x):
        return x.roll(1, -1) if x.shape[-1] >= largest else x

    assert still_gives(halo.witnesses, lambda x: x)
    assert not still_gives(halo.witnesses, seeing_farther)


@pytest.mark.parametrize(
    "change",
    [
        {"in_channels": 3},
        {"sha256": 64 * "a"},
        {"output": "logits"},
        {"arguments": {"dims": 2, "features": [4, 6]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_a_halo_is_part_of_its_name(spec, passes, empty_cache, change):
    from cte_dask.inference.kept_halos import keep, recall

    keep(spec, 64, measured(spec))
    if change == {"output": "logits"}:
        change = {"output": spec.output.model_copy(update={"activation": "none"})}
    assert recall(spec, 64) is not None
    assert recall(spec.model_copy(update=change), 64) is None
    assert recall(spec, 32) is None
    assert recall(spec.model_copy(update={"name": "another"}), 64) is not None


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[]", b'{"zyx": [0, 1]}'])
def test_a_damaged_file_is_none_and_is_replaced(spec, passes, empty_cache, damage):
    first = measured(spec)
    (file,) = (empty_cache / "halos").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    passes.clear()
    assert measured(spec) == first
    assert len(passes) > 10
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "shape", [[], [1, 1, 64], [1, 1, 0, 0], [-1, 1, 8, 8], [1, 1, 7, 7], [10**30]]
)
def test_a_file_that_tells_of_an_image_that_is_none_is_replaced(spec, passes, empty_cache, shape):
    first = measured(spec)
    (file,) = (empty_cache / "halos").iterdir()
    whole = file.read_bytes()
    kept = json.loads(whole)
    kept["witnesses"][0]["shape"] = shape
    file.write_text(json.dumps(kept))
    assert measured(spec) == first
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_error(spec, passes, tmp_path, monkeypatch):
    file = tmp_path / "a file"
    file.touch()
    monkeypatch.setenv("CTE_CACHE", str(file))
    assert measured(spec) == measured(spec)
    assert os.path.isfile(file)


def test_a_network_that_draws_at_random_is_measured_each_time(spec, passes, monkeypatch):
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, x: forward(self, x) + 9 * torch.rand(()))
    measured(spec)
    passes.clear()
    measured(spec)
    assert len(passes) > 10
