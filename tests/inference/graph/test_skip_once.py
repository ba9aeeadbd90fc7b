"""What a convolution does with a skip connection is done once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from plain_passes import assert_as_plain
from torch import Tensor, nn

from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.models.network import Network


class Joined(nn.Module):
    """Two skips and one map from below, joined in an order, then convolved."""

    def __init__(self, order: str, after: nn.Module, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        given = {"padding": 2, "dilation": 2, **options}
        self.joined, self.after = nn.Conv2d(12, 4, 3, **given), after
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        maps = {"a": one, "b": two, "u": self.up(self.down(one))}
        return self.after(self.joined(torch.cat([maps[c] for c in self.order], 1)))


def opened(module: nn.Module, layout=torch.contiguous_format):
    module = module.eval().requires_grad_(False).to(memory_format=layout)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.3, 2)
    x = torch.rand(2, 1, 16, 24)
    return feature_path(Network(forward=module, kind="module"), x), x


AFTER = {
    "nothing": nn.Identity,
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "norm and relu": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
    "group norm": lambda: nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("order", ["abu", "uab", "aub"])
@pytest.mark.parametrize("after", AFTER)
def test_the_passes_are_the_same(order, after, layout):
    module = Joined(order, AFTER[after]())
    path, x = opened(module, layout)
    assert path.note == ""
    fused_leaky = after == "leaky"  # oneDNN adds before a ReLU alone
    assert (path.once is None) == fused_leaky
    assert_as_plain(path, module, x, rtol=1e-4)


def test_a_grouped_convolution_is_left_whole():
    path, _ = opened(Joined("abu", nn.ReLU(), groups=2))
    assert path.note == ""
    assert path.once is None


class Deep(nn.Module):
    """Two levels: only the upper one has a skip, both enlarge maps with a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(1, 8, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
        self.lower = nn.Sequential(nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, 16, 3, 1, 1))
        self.up, self.joined = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 3, 1, 1)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.one(x))
        low = torch.relu(self.lower(torch.relu(self.down(one))))
        return self.last(torch.relu(self.joined(torch.cat([one, self.up(low)], 1))))


def test_a_level_without_a_skip_does_not_keep_the_others_from_it():
    path, x = opened(Deep())
    assert path.note == ""
    assert path.once is not None
    assert "call_module" in {node.op for node in path.suffix.graph.nodes}
    assert_as_plain(path, Deep().eval(), x, rtol=1e-4)
