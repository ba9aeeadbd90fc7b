"""Traces shared between models of one code: traced once, each with its own weights."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from plain_passes import assert_as_plain
from torch import Tensor, nn

from cte_dask.inference.graph import feature_path as feature
from cte_dask.inference.graph import proving, refill
from cte_dask.inference.graph import trace_cache as shared
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet


def unet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return UNet(dims=2, features=(4, 6, 8)).eval().requires_grad_(False)


class Signed(nn.Module):
    """Which way it goes is decided by a weight, without a trace noticing."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 1, 2, stride=2)
        self.sign = nn.Parameter(torch.tensor(sign))
        self.positive = sign > 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.down(x))
        return y + self.sign if self.positive else y - 2 * self.sign


@pytest.fixture
def traced(monkeypatch) -> list[object]:
    """Collects what is traced; nothing is remembered from other tests."""
    calls: list[object] = []
    real = feature.traced
    monkeypatch.setattr(feature, "traced", lambda f, *x: calls.append(f) or real(f, *x))
    for name in ("_KEPT", "_FORMS"):
        monkeypatch.setattr(shared, name, type(shared._KEPT)())
    return calls


def path_of(module: nn.Module, x: Tensor, code: str = "unet"):
    module.eval().requires_grad_(False)
    return feature.feature_path(Network(forward=module, kind="module", code=code), x)


def test_models_of_one_code_are_traced_once_and_keep_their_own_weights(traced):
    x = torch.rand(2, 1, 32, 32)
    modules = [unet(seed) for seed in range(3)]
    paths = [path_of(m, x) for m in modules]
    assert len(traced) == 1
    for path, module in zip(paths, modules, strict=True):
        assert path.note == ""
        assert_as_plain(path, module, x)


@pytest.mark.parametrize("what", ["code", "extent", "no code"])
def test_another_code_or_batch_is_traced_for_itself(traced, what):
    x = torch.rand(2, 1, 32, 32)
    code = "" if what == "no code" else "unet"
    path_of(unet(0), x, code)
    other = torch.rand(2, 1, 64, 64) if what == "extent" else x
    path = path_of(module := unet(1), other, "wider" if what == "code" else code)
    assert len(traced) == 2
    assert_as_plain(path, module, other)


def test_a_network_whose_weights_decide_its_way_gets_a_trace_of_its_own(traced):
    x = torch.rand(2, 1, 32, 32)
    path_of(Signed(1.0), x, "signed")
    path = path_of(module := Signed(-1.0), x, "signed")
    assert len(traced) == 2
    assert path.note == ""
    assert_as_plain(path, module, x)


def test_no_more_traces_are_kept_than_a_process_can_hold(traced):
    module = unet(0)
    for number in range(shared._MOST + 3):
        path_of(module, torch.rand(1, 1, 16, 16), f"code {number}")
    assert len(shared._KEPT) == shared._MOST


def test_weights_that_decide_the_way_are_found_out_on_a_smaller_batch_too(traced):
    x, small = torch.rand(2, 1, 64, 64), torch.rand(1, 1, 16, 16)
    for sign in (1.0, -1.0, 2.0):
        module = Signed(sign).eval().requires_grad_(False)
        opened = Network(forward=module, kind="module", code="signed")
        path = feature.feature_path(opened, x, small=small)
        assert path.note == ""
        assert_as_plain(path, module, x)
    assert len(traced) == 3, "whole and small, and one of its own"


class Positioned(nn.Module):
    """It computes a constant, folds a norm, enlarges maps and convolves a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.table = nn.Parameter(torch.rand(4, 1, 1))
        self.wide = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.after = nn.Conv2d(6, 6, 3, padding=1)
        self.out = nn.Conv2d(7, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.down(x))) + self.table.exp() * 2
        y = torch.relu(self.after(self.up(torch.relu(self.wide(y)))))
        return self.out(torch.cat([x, y], dim=1))


def positioned(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Positioned().eval().requires_grad_(False)


@pytest.mark.parametrize("made", [unet, positioned])
@pytest.mark.parametrize("small", [None, torch.rand(1, 1, 16, 16)])
def test_graphs_are_rewritten_once_and_filled_to_the_same_bits(traced, monkeypatch, small, made):
    rewritten: list[object] = []
    real = proving.fused
    monkeypatch.setattr(proving, "fused", lambda g, d: rewritten.append(g) or real(g, d))
    x, core = torch.rand(2, 1, 96, 96), (slice(44, 52), slice(40, 56))

    def opened(seed: int):
        network = Network(forward=made(seed), kind="module", code="unet")
        return feature.feature_path(network, x, core=core, small=small)

    opened(0)
    once = len(rewritten)
    paths = [opened(seed) for seed in (1, 2)]
    assert len(rewritten) == once
    for seed, path in zip((1, 2), paths, strict=True):
        assert path.note == ""
        assert_as_plain(path, made(seed), x)
        refill._REWRITTEN.clear()
        masks = [torch.rand(2, c, 1, 1) for c in path.channels]
        with torch.inference_mode():
            fresh = opened(seed)
            assert path.inner is not None
            for cropped in (False, True):
                got, want = (p.run(x, masks, cropped=cropped) for p in (path, fresh))
                assert torch.equal(got, want)
    assert len(rewritten) > once


def test_a_graph_of_another_trace_is_not_filled(traced):
    x = torch.rand(2, 1, 32, 32)
    path_of(unet(0), x)
    shared._KEPT.clear()  # as if others had come between
    path_of(unet(1), x)
    path = path_of(module := unet(2), x)
    assert len(traced) == 2
    assert path.note == ""
    assert_as_plain(path, module, x)


def test_graphs_that_are_kept_keep_no_weights(traced):
    x = torch.rand(2, 1, 32, 32)
    for seed in (0, 1):
        path = path_of(unet(seed), x)
        weights = [weakref.ref(module) for module in (path.prefix, path.suffix, path.once)]
        del path
        gc.collect()
        assert [weight() for weight in weights] == [None] * 3


def test_what_was_written_of_a_graph_is_forgotten_with_it(traced):
    core = slice(44, 52), slice(40, 56)
    network = Network(forward=unet(0), kind="module", code="unet")
    before = set(refill._REWRITTEN)
    path = feature.feature_path(network, torch.rand(2, 1, 96, 96), core=core)
    assert path.inner is not None
    new = [weakref.ref(graph) for graph in set(refill._REWRITTEN) - before]
    assert len(new) > 1, "of the trace, and of what is cut to the tile"
    del path
    shared._KEPT.clear()
    for _ in range(2):  # the trace, then what was written of it
        gc.collect()
    assert [graph() for graph in new] == [None] * len(new)
