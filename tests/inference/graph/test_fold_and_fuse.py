"""Fused graphs: fewer operations, the same function, the same count of FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.inference.graph import trace
from cte_dask.inference.graph.fold_and_fuse import fused
from cte_dask.models.unet import UNet

CPU = torch.device("cpu")


def settled(module: nn.Module) -> nn.Module:
    """Batch norms with statistics that matter, in evaluation mode."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.3, 2)
            if part.affine:
                nn.init.normal_(part.weight, 1, 0.3)
                nn.init.normal_(part.bias, 0, 0.3)
    return module.eval().requires_grad_(False)


def traced(module: nn.Module, x: Tensor) -> GraphModule:
    with torch.no_grad():
        return trace.traced(module, x)


def names(graph: GraphModule) -> list[str]:
    return [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]


def block(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return settled(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, stride=2), *layers))


class Residual(nn.Module):
    """What two convolutions give is added to their input, by one of several operators."""

    def __init__(self, add: str, after: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.second, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.add, self.after = add, after

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        y = self.norm(self.second(skip))
        if self.add == "in place":
            y += skip
        elif self.add == "in place of the skip":
            skip += y
            y = skip
        elif self.add == "one map":
            y = y + skip[:, :1]
        elif self.add == "twice":
            y = torch.add(y, skip, alpha=2)
        else:
            y = y + skip if self.add == "sum" else skip + y
        return self.after(y)


def instance(dims: int, *, affine: bool, batch: int) -> tuple[Any, tuple[int, ...], bool]:
    layers = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)

    def make() -> nn.Module:
        torch.manual_seed(0)
        layer, norm = layers[0](2, 4, 3, padding=1), layers[1](4, affine=affine)
        module = nn.Sequential(layer, norm, nn.LeakyReLU(inplace=True))
        if affine:
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)
        last = torch.channels_last if dims == 2 else torch.channels_last_3d
        return module.eval().requires_grad_(False).to(memory_format=last)

    return make, (batch, 2, *(6, 10, 10)[-dims:]), False


NETWORKS = {
    **{
        f"residual, {add}, {after.__name__}": (
            lambda add=add, after=after: settled(Residual(add, after())),
            (2, 1, 9, 9),
            False,
        )
        for add in ("sum", "skip first", "in place", "in place of the skip", "one map", "twice")
        for after in (nn.Identity, nn.ReLU, nn.LeakyReLU)
    },
    "silu": (lambda: block(nn.BatchNorm2d(4), nn.SiLU()), (1, 1, 9, 9), False),
    "silu in place": (lambda: block(nn.SiLU(inplace=True)), (1, 1, 9, 9), False),
    "transposed, activated": (
        lambda: block(nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), nn.ReLU(inplace=True)),
        (2, 1, 9, 9),
        False,
    ),
    "grouped": (lambda: block(nn.Conv2d(4, 8, 3, groups=4, dilation=2)), (1, 1, 19, 19), False),
    "unet 2d": (lambda: settled(UNet(dims=2, features=(4, 6, 8))), (2, 1, 32, 32), False),
    "unet 3d": (lambda: settled(UNet(dims=3, features=(4, 6))), (1, 1, 8, 16, 16), False),
    "no bias": (
        lambda: settled(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4))),
        (1, 1, 9, 9),
        False,
    ),
    "not affine": (lambda: block(nn.BatchNorm2d(4, affine=False), nn.ReLU()), (1, 1, 9, 9), False),
    "in place": (lambda: block(nn.BatchNorm2d(4), nn.ReLU(inplace=True)), (1, 1, 9, 9), False),
    "leaky": (lambda: block(nn.BatchNorm2d(4), nn.LeakyReLU(0.2)), (1, 1, 9, 9), False),
    "leaky by default": (lambda: block(nn.LeakyReLU()), (1, 1, 9, 9), False),
    "norm last": (lambda: block(nn.ReLU(), nn.BatchNorm2d(4)), (1, 1, 9, 9), True),
    "norm of a transposed one": (
        lambda: block(nn.ConvTranspose2d(4, 3, 2, stride=2), nn.BatchNorm2d(3)),
        (1, 1, 9, 9),
        True,
    ),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_graph_is_the_same_function(name, layout):
    make, shape, norm_stays = NETWORKS[name]
    module, x = make(), torch.rand(shape)
    if x.ndim == 4:
        module = module.to(memory_format=layout)
    graph = traced(module, x)
    before = names(graph)
    got = fused(graph, CPU)
    assert names(graph) == before, "the original was changed"
    assert any("batch_norm" in n for n in names(got)) == norm_stays
    with torch.inference_mode():
        torch.testing.assert_close(got(x), module(x), rtol=1e-5, atol=1e-6)


def test_activations_run_inside_the_convolutions_on_the_cpu_alone():
    x = torch.rand(1, 1, 32, 32)
    graph = traced(settled(UNet(dims=2, features=(4, 6, 8))), x)
    assert not any("relu" in n for n in names(fused(graph, CPU)))
    elsewhere = fused(graph, torch.device("cuda"))
    assert any("relu" in n for n in names(elsewhere))
    assert not any("batch_norm" in n for n in names(elsewhere))


def test_a_fused_convolution_counts_as_many_operations():
    x = torch.rand(1, 1, 32, 32)
    graph = traced(settled(UNet(dims=2, features=(4, 6, 8))), x)
    counts = []
    for each in (graph, fused(graph, CPU)):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            each(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


class Counting(Residual):
    """Activations in place, and a sum in place, as in residual networks."""

    def __init__(self) -> None:
        super().__init__("in place", nn.ReLU(inplace=True))


def test_nothing_runs_beside_what_takes_its_place():
    module, x = settled(Counting()), torch.rand(1, 1, 9, 9)
    graph = traced(module, x)
    got = fused(graph, CPU)
    assert [n.split(".")[0] for n in names(got)] == ["cte_dask", "cte_dask"]
    counts = []
    for each in (graph, got):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            each(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_every_convolution_is_one_of_onednn(dims):
    """By itself PyTorch runs small ones as matrix products of unfolded copies."""
    x = torch.rand(1, 1, *(8, 16, 16)[-dims:])
    got = fused(traced(settled(UNet(dims=dims, features=(4, 6))), x), CPU)
    assert [n for n in names(got) if "conv" in n and not n.startswith(("mkldnn", "cte_dask"))] == []


INSTANCE = {
    f"{dims}D, affine {affine}, batch {batch}": instance(dims, affine=affine, batch=batch)
    for dims in (2, 3)
    for affine in (False, True)
    for batch in (1, 3)
}


@pytest.mark.parametrize("name", INSTANCE)
def test_instance_norms_run_where_the_maps_lie(name):
    make, shape, _ = INSTANCE[name]
    module, x = make(), torch.rand(shape) + 3  # far from zero: a sum of squares would cancel
    graph = traced(module, x)
    assert any("batch_norm" in n for n in names(graph))
    got = fused(graph, CPU)
    assert not any("clone" in n or "batch_norm" in n for n in names(got))
    with torch.inference_mode():
        torch.testing.assert_close(got(x), module(x), rtol=1e-5, atol=1e-5)


def test_an_instance_norm_whose_maps_lie_first_is_left_alone():
    module, x = instance(2, affine=True, batch=2)[0](), torch.rand(2, 2, 10, 10)
    got = fused(traced(module.to(memory_format=torch.contiguous_format), x), CPU)
    assert any("batch_norm" in n for n in names(got))
    with torch.inference_mode():
        torch.testing.assert_close(got(x), module(x), rtol=1e-5, atol=1e-5)


class Flattened(nn.Module):
    """Maps taken for a list of voxels, as before an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        tokens = y.flatten(2).softmax(-1)
        return self.second(tokens.reshape(y.shape) + y)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_maps_that_are_flattened_stay_right_where_their_layout_changes(layout):
    torch.manual_seed(0)
    module, x = settled(Flattened()).to(memory_format=layout), torch.rand(2, 1, 4, 6, 6)
    got = fused(traced(module, x), CPU)
    with torch.inference_mode():
        torch.testing.assert_close(got(x), module(x), rtol=1e-5, atol=1e-6)


class Twice(nn.Module):
    """What the convolution gives is used before and after the batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return torch.relu(self.norm(y)) + y


def test_what_is_used_elsewhere_is_left_alone():
    module, x = settled(Twice()), torch.rand(1, 1, 9, 9)
    got = fused(traced(module, x), CPU)
    with torch.inference_mode():
        torch.testing.assert_close(got(x), module(x), rtol=1e-5, atol=1e-6)
    assert any("batch_norm" in n for n in names(got))
