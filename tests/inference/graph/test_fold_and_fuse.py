"""Fused graphs: fewer operations, the same function, the same count of FLOPs."""

from __future__ import annotations

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


NETWORKS = {
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
