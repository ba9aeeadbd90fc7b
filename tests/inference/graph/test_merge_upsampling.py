"""Convolutions of enlarged maps: one transposed convolution, at the border, too."""

from __future__ import annotations

import pytest
import torch
from plain_passes import assert_as_plain
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.inference.graph import trace
from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.inference.graph.fold_and_fuse import fused
from cte_dask.inference.graph.merge_upsampling import merge_upsampling
from cte_dask.models.network import Network

CPU = torch.device("cpu")
PARTS = {2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class Up(nn.Module):
    """A level of a decoder: enlarge, join a skip if there is one, convolve."""

    def __init__(
        self,
        dims: int,
        *,
        up: str,
        factor: tuple[int, ...],
        kernel: int = 3,
        padding: int = 1,
        activation: nn.Module | None = None,
        skip: int = 0,
        **options,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolution, transposed = PARTS[dims]
        self.first = convolution(1, 8, 3, padding=1)
        self.skip = convolution(1, skip, 3, padding=1) if skip else None
        self.down = convolution(8, 12, factor, factor)
        self.factor = factor
        biased = up != "learnt, no bias"
        self.up = transposed(12, 6, factor, factor, bias=biased) if "learnt" in up else None
        joined = skip + (6 if self.up else 12)
        self.second = convolution(joined, 10, kernel, padding=padding, **options)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        small = self.down(self.first(x))
        factors = [float(f) for f in self.factor]
        large = self.up(small) if self.up else F.interpolate(small, scale_factor=factors)
        if self.skip is not None:
            large = torch.cat([large, self.skip(x)], 1)
        return self.activation(self.second(large))


def prepared(module: nn.Module, x: Tensor):
    graph = fused(trace.traced(module, x), CPU)
    merge_upsampling(graph)
    return graph


def names(graph) -> str:
    return " ".join(str(n.target) for n in graph.graph.nodes if n.op == "call_function")


def flops(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


EXTENTS = {2: (12, 18), 3: (6, 12, 18)}
ACTIVATIONS = {
    "none": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "silu": nn.SiLU,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("up", ["nearest", "learnt", "learnt, no bias"])
@pytest.mark.parametrize(
    ("dims", "factor"), [(2, (2, 2)), (2, (2, 3)), (3, (2, 2, 2)), (3, (1, 2, 2))]
)
def test_enlarging_and_convolving_is_one_convolution_of_the_small_maps(
    dims, factor, up, activation
):
    module = Up(dims, up=up, factor=factor, activation=ACTIVATIONS[activation]())
    module = module.eval().requires_grad_(False).to(memory_format=LAST[dims])
    x = torch.rand(2, 1, *EXTENTS[dims])
    with torch.no_grad():
        want = module(x)
        graph = prepared(module, x)
        assert "upsample" not in names(graph)
        assert names(graph).count("conv") == 3, "one convolution too many"
        for _ in range(2):  # what it remembers of the border is not spoilt
            torch.testing.assert_close(graph(x), want, rtol=1e-5, atol=1e-5)
        assert flops(lambda: graph(x)) < flops(lambda: module(x))


@pytest.mark.parametrize(("kernel", "padding"), [(3, 0), (5, 2), (5, 1), (3, 2)])
def test_other_kernels_and_padding(kernel, padding):
    module = Up(2, up="learnt", factor=(2, 2), kernel=kernel, padding=padding).eval()
    x = torch.rand(1, 1, *EXTENTS[2])
    with torch.no_grad():
        graph = prepared(module, x)
        assert "between" in graph.code, "not merged"
        torch.testing.assert_close(graph(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("up", ["nearest", "learnt"])
@pytest.mark.parametrize("dims", [2, 3])
def test_passes_that_add_what_a_skip_gave_once(dims, up, activation):
    factor = (2,) * dims
    module = Up(dims, up=up, factor=factor, activation=ACTIVATIONS[activation](), skip=4)
    module = module.eval().requires_grad_(False).to(memory_format=LAST[dims])
    x = torch.rand(2, 1, *EXTENTS[dims])
    path = feature_path(Network(forward=module, kind="module"), x)
    assert path.once is not None
    assert "upsample" not in names(path.suffix)
    assert names(path.suffix).count("conv") == 1
    assert_as_plain(path, module, x)


class Twice(Up):
    """What is enlarged is used by another operation, too."""

    def forward(self, x: Tensor) -> Tensor:
        large = F.interpolate(self.down(self.first(x)), scale_factor=[2.0, 2.0])
        return self.second(large) + large.mean()


LEFT = {
    "used twice": lambda: Twice(2, up="nearest", factor=(2, 2)),
    "strided": lambda: Up(2, up="nearest", factor=(2, 2), stride=2),
    "dilated": lambda: Up(2, up="nearest", factor=(2, 2), dilation=2),
    "grouped": lambda: Up(2, up="nearest", factor=(2, 2), groups=2),
    "nothing saved": lambda: Up(2, up="nearest", factor=(2, 2), kernel=1, padding=0),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_merged_or_saves_nothing_is_left_alone(name):
    module, x = LEFT[name]().eval(), torch.rand(1, 1, *EXTENTS[2])
    with torch.no_grad():
        graph = prepared(module, x)
        assert "upsample" in names(graph)
        torch.testing.assert_close(graph(x), module(x), rtol=1e-5, atol=1e-5)
