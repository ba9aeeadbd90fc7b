"""Convolutions as products in another space: the numbers of any other way, up to rounding."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cte_dask.inference.graph import convolutions, winograd, winograd_code
from cte_dask.inference.graph.feature_path import Split, example_masks, feature_path
from cte_dask.inference.graph.private_torch import CONVOLUTION, CONVOLUTION_SUM, ONEDNN, ONEDNN_SUM
from cte_dask.inference.graph.trace import flops_of
from cte_dask.inference.graph.winograd import is_quicker
from cte_dask.inference.model_size import bytes_of
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet

OFF = 5e-6
"""A part of the largest output; a kernel that is turned, or a shifted border, is off by all."""

CASES = [
    # a sample, channels out, kernel along z (0 in 2D), padding
    ((1, 16, 12, 12), 16, 0, (1, 1)),
    ((2, 32, 9, 14), 16, 0, (0, 0)),
    ((3, 16, 5, 7), 48, 0, (2, 1)),
    ((1, 16, 3, 3), 16, 0, (0, 0)),
    ((1, 16, 1, 1), 16, 0, (1, 1)),
    ((1, 48, 61, 67), 32, 0, (1, 1)),
    ((5, 16, 20, 20), 16, 0, (1, 1)),
    ((1, 16, 4, 9, 10), 32, 3, (1, 1, 1)),
    ((2, 32, 5, 6, 7), 16, 3, (0, 1, 0)),
    ((2, 16, 3, 9, 10), 16, 1, (0, 1, 1)),
    ((1, 16, 2, 9, 10), 16, 1, (1, 1, 1)),
    ((1, 16, 6, 40, 44), 16, 5, (2, 1, 1)),
]
ACTIVATIONS = [("none", []), ("relu", []), ("leaky_relu", [0.2])]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[8, 16])
def lanes(request, monkeypatch):
    """Code of each width of register, which any processor runs."""
    monkeypatch.setattr(winograd, "steps_or_none", lambda: winograd_code.steps(request.param))


def laid(shape, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    return torch.randn(shape).contiguous(memory_format=layout)


def layer(shape, out: int, deep: int) -> tuple[Tensor, Tensor]:
    kernel = (deep, 3, 3) if len(shape) == 5 else (3, 3)
    return laid((out, shape[1], *kernel), 1), laid((1, out, 1, 1), 2).flatten()


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, padding) -> Tensor:
    convolve = functional.conv2d if x.ndim == 4 else functional.conv3d
    bias = None if bias is None else bias.double()
    return convolve(x.double(), weight.double(), bias, padding=padding)


def activated(x: Tensor, activation) -> Tensor:
    name, scalars = activation
    return x if name == "none" else functional.leaky_relu(x, *scalars or [0.0])


def assert_near(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= OFF * float(want.abs().max())


def winograds(x: Tensor, weight: Tensor, bias, padding, activation, added=None) -> Tensor:
    slope = convolutions._slope(*activation)
    return winograd._convolved(x, weight, bias, padding, slope=slope, added=added)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "out", "deep", "padding"), CASES)
def test_a_convolution_is_that_of_float64(lanes, shape, out, deep, padding, activation):
    x, (weight, bias) = laid(shape), layer(shape, out, deep)
    for offset in (bias, None):
        want = activated(plain(x, weight, offset, padding), activation)
        assert_near(winograds(x, weight, offset, padding, activation), want)


@pytest.mark.parametrize(("shape", "out", "deep", "padding"), CASES)
def test_what_is_added_is_added_before_the_activation(lanes, shape, out, deep, padding):
    x, (weight, bias) = laid(shape), layer(shape, out, deep)
    sums = plain(x, weight, bias, padding)
    added = laid(sums.shape, 3)
    for activation in ACTIVATIONS:
        want = activated(sums + added, activation)
        assert_near(winograds(x, weight, bias, padding, activation, added), want)


def test_parts_of_larger_maps_are_read_where_they_lie(lanes):
    whole = laid((2, 16, 30, 40))
    weight, bias = layer(whole.shape, 16, 0)
    x = whole[:, :, 3:20, 5:39]
    added = laid((2, 16, 40, 80), 5)[:, :, 4:21, 2:70:2]
    got = winograds(x, weight, bias, (1, 1), ("relu", []), added)
    assert_near(got, (plain(x, weight, bias, 1) + added).relu())


def test_large_maps_are_done_part_by_part(lanes, monkeypatch):
    for shape, deep, padding in (((2, 16, 90, 60), 0, (1, 1)), ((1, 16, 3, 50, 60), 3, (1, 1, 1))):
        x, (weight, bias) = laid(shape), layer(shape, 32, deep)
        want = plain(x, weight, bias, padding)
        for block in (1, 2**16, 2**18, 2**24):
            monkeypatch.setattr(winograd, "BLOCK", block)
            assert_near(winograds(x, weight, bias, padding, ("none", [])), want)


@given(
    into=st.sampled_from([16, 32, 48]),
    out=st.sampled_from([16, 32, 48]),
    size=st.lists(st.integers(1, 19), min_size=2, max_size=3),
    deep=st.integers(1, 4),
    pads=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    samples=st.integers(1, 3),
)
def test_any_extent_and_padding(into, out, size, deep, pads, samples):
    kernel = (deep, 3, 3)[-len(size) :]
    padding = pads[: len(size)]
    if any(n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)):
        return
    x, (weight, bias) = laid((samples, into, *size)), layer((samples, into, *size), out, deep)
    want = plain(x, weight, bias, padding).relu()
    assert_near(winograds(x, weight, bias, padding, ("relu", [])), want)


ELSE = {
    # what is done by oneDNN, to the bit
    "few voxels": ((1, 32, 6, 6), (32, 32, 3, 3), {}),
    "few channels": ((1, 8, 64, 64), (8, 8, 3, 3), {}),
    "odd channels": ((1, 40, 64, 64), (64, 40, 3, 3), {}),
    "a larger kernel": ((1, 32, 64, 64), (32, 32, 5, 5), {}),
    "a smaller kernel": ((1, 32, 64, 64), (32, 32, 1, 1), {}),
    "steps of two": ((1, 32, 64, 64), (32, 32, 3, 3), {"stride": [2, 2]}),
    "dilation": ((1, 32, 64, 64), (32, 32, 3, 3), {"dilation": [2, 2]}),
    "groups": ((1, 64, 64, 64), (64, 32, 3, 3), {"groups": 2}),
    "a sigmoid": ((1, 32, 64, 64), (32, 32, 3, 3), {"activation": "sigmoid"}),
    "swish": ((1, 32, 64, 64), (32, 32, 3, 3), {"activation": "swish"}),
    "huge weights": ((1, 1024, 8, 8), (1024, 1024, 3, 3), {}),
    "channels apart": ((1, 32, 64, 64), (32, 32, 3, 3), {"layout": torch.contiguous_format}),
    "two threads": ((1, 32, 64, 64), (32, 32, 3, 3), {"threads": 2}),
}


@pytest.mark.parametrize("what", ELSE)
def test_what_is_not_quicker_is_left_to_onednn(what, monkeypatch):
    shape, kernel, change = ELSE[what]
    ones = [1, 1]
    torch.set_num_threads(change.get("threads", 1))
    x = laid(shape).contiguous(memory_format=change.get("layout", torch.channels_last))
    more = (ones, change.get("stride", ones), change.get("dilation", ones))
    more += (change.get("groups", 1), change.get("activation", "relu"), [], "")
    monkeypatch.setattr(winograd, "_convolved", None)
    weight, bias = laid(kernel, 1), laid((1, kernel[0], 1, 1), 2).flatten()
    assert torch.equal(CONVOLUTION(x, weight, bias, *more), ONEDNN(x, weight, bias, *more))


def test_without_machine_code_onednn_runs_all(monkeypatch, caplog):
    def refused():
        raise RuntimeError("cannot allocate memory that may be run")

    winograd.steps_or_none.cache_clear()
    monkeypatch.setattr(winograd_code, "steps", refused)
    ones = [1, 1]
    x, (weight, bias) = laid((1, 32, 64, 64)), layer((1, 32), 32, 0)
    more = (ones, ones, ones, 1, "relu", [], "")
    for _ in range(2):
        assert torch.equal(CONVOLUTION(x, weight, bias, *more), ONEDNN(x, weight, bias, *more))
    assert caplog.text.count("left to oneDNN: RuntimeError: cannot allocate") == 1
    winograd.steps_or_none.cache_clear()


def test_sums_of_another_kind_are_left_to_onednn(monkeypatch):
    x, weight = laid((1, 32, 64, 64)), laid((32, 32, 3, 3), 1)
    other = laid(x.shape, 2)
    ones = [1, 1]
    monkeypatch.setattr(winograd, "_convolved", None)
    for kind, factor in (("mul", 1.0), ("sub", 1.0)):
        more = (ones, ones, ones, 1, kind, factor, "relu", [], None)
        got = CONVOLUTION_SUM(x, other, weight, None, *more)
        assert torch.equal(got, ONEDNN_SUM(x, other, weight, None, *more))


def test_the_rule_takes_what_is_known_to_be_quicker():
    assert is_quicker((1, 32, 160, 160), (32, 32, 3, 3), (1, 1))
    assert is_quicker((1, 256, 20, 20), (256, 256, 3, 3), (1, 1))
    assert is_quicker((1, 16, 32, 96, 96), (16, 16, 3, 3, 3), (1, 1, 1))
    assert not is_quicker((1, 32, 160, 160), (32, 32, 3, 5), (1, 1))
    assert not is_quicker((1, 32, 1, 1), (32, 32, 3, 3), (0, 0)), "it gives nothing"
    assert not is_quicker((1, 16, 160, 160), (32, 32, 3, 3), (1, 1)), "channels that do not fit"


def test_what_a_sample_gives_does_not_depend_on_those_beside_it():
    weight, bias = layer((4, 32, 40, 40), 32, 0)
    x = laid((4, 32, 40, 40))
    assert is_quicker(x.shape, weight.shape, (1, 1)) == is_quicker(
        (1, *x.shape[1:]), weight.shape, (1, 1)
    )
    whole = winograds(x, weight, bias, (1, 1), ("relu", []))
    for sample, alone in itertools.product(range(4), [1, 3]):
        batch = x[sample : sample + 1].expand(alone, -1, -1, -1)
        got = winograds(
            batch.contiguous(memory_format=torch.channels_last), weight, bias, (1, 1), ("relu", [])
        )
        assert torch.equal(got[0], whole[sample])


def test_threads_do_not_share_what_they_work_in():
    weight, bias = layer((1, 32, 64, 64), 32, 0)
    inputs = [laid((1, 32, 64, 64), seed) for seed in range(4)]

    def run(x: Tensor) -> Tensor:
        return winograds(x, weight, bias, (1, 1), ("relu", []))

    alone = [run(x) for x in inputs]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            for got, want in zip(threads.map(run, inputs), alone, strict=True):
                assert torch.equal(got, want)


def test_weights_that_change_in_place_are_transformed_again():
    x, (weight, bias) = laid((1, 16, 20, 20)), layer((1, 16, 20, 20), 16, 0)
    first = winograd._matrices(weight)
    assert winograd._matrices(weight) is first
    winograds(x, weight, bias, (1, 1), ("none", []))
    weight.mul_(2)
    assert_near(winograds(x, weight, bias, (1, 1), ("none", [])), plain(x, weight, bias, 1))


def test_the_compiler_is_told_the_extents_that_an_operation_gives():
    x = laid((2, 32, 17, 23))
    for kernel, stride, padding, dilation in itertools.product((1, 3), (1, 2), (0, 1), (1, 2)):
        weight = laid((16, 32, kernel, kernel), 1)
        more = ([padding] * 2, [stride] * 2, [dilation] * 2, 1, "none", [], "")
        got = CONVOLUTION(x, weight, None, *more)
        told = CONVOLUTION(x.to("meta"), weight.to("meta"), None, *more)
        assert (got.shape, got.stride(), got.dtype) == (told.shape, told.stride(), told.dtype)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_runs_so_and_is_proven_and_counted_as_before(dims, monkeypatch):
    torch.manual_seed(0)
    module = UNet(dims=dims, features=(16, 32)).eval().requires_grad_(False)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    module.to(memory_format=layout)
    x = laid((1, 1, *(12, 64, 64)[-dims:]))
    ran = []
    whole = winograd._convolved
    monkeypatch.setattr(winograd, "_convolved", lambda *a, **k: ran.append(1) or whole(*a, **k))
    path = feature_path(Network(forward=module, kind="module"), x)
    assert isinstance(path, Split)
    masks = example_masks(x, path.channels, random=False)
    ran.clear()
    with torch.inference_mode():
        got = path.run(x, masks)
        assert ran
        ours = flops_of(lambda: path.run(x, masks))
        monkeypatch.setattr(winograd, "is_quicker", lambda *_: False)
        assert_near(got, module(x))
        assert flops_of(lambda: path.run(x, masks)) == ours


def test_transformed_weights_count_as_memory_of_a_model():
    class Loaded:
        device = "cpu"
        network = Network(forward=nn.Conv2d(32, 64, 3), kind="module")

    known = bytes_of(Loaded())
    assert known == 4 * (64 * 32 * 9 + 64) + 4 * 36 * 64 * 32
    Loaded.device = "cuda"
    assert bytes_of(Loaded()) == 4 * (64 * 32 * 9 + 64)
