"""The authors' end-to-end case: one network, one dropout draw, NHD per image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from golden import cases
from torch import Tensor, nn
from torch.nn import functional as F

from cte_dask.consistency.binary import binary_agreement
from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.models.network import Network


class Encoder(nn.Module):
    """conv–norm–ReLU twice, as the case's 'bcr' order: batch norm, convolution, ReLU."""

    def __init__(self, first: int, last: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        half = max(last // 2, first) if pool or first == 1 else last
        self.convs = nn.Sequential(*single(first, half), *single(half, last))

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(self.pool(x))


def single(first: int, last: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(first), nn.Conv2d(first, last, 3, padding=1, bias=False), nn.ReLU()]


class Decoder(nn.Module):
    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*single(first, last), *single(last, last))

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        up = F.interpolate(x, size=skip.shape[2:], mode="nearest")
        return self.convs(torch.cat([skip, up], 1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        maps = [8, 16, 32]
        self.encoders = nn.ModuleList(
            Encoder(a, b, pool=a != 1) for a, b in zip([1, *maps], maps, strict=False)
        )
        self.decoders = nn.ModuleList([Decoder(32 + 16, 16), Decoder(16 + 8, 8)])
        self.final = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.insert(0, x)
        for decoder, skip in zip(self.decoders, skips[1:], strict=True):
            x = decoder(skip, x)
        return torch.sigmoid(self.final(x))


def authors_mask(channels: int, rate: float, *, seed: int) -> Tensor:
    """The case's draw: ceil(p·C) maps by a torch permutation, the same for every image."""
    torch.manual_seed(seed)
    mask = torch.ones(1, channels, 1, 1) / (1 - rate)
    mask[:, torch.randperm(channels)[: math.ceil(rate * channels)]] = 0
    return mask


@pytest.mark.parametrize("case", cases("E2E"))
def test_golden_end_to_end(case):
    if case["params"]["torch"].split("+")[0] != torch.__version__.split("+")[0]:
        pytest.skip(f"weights are bound to torch {case['params']['torch']}")
    torch.manual_seed(case["params"]["torch_seed"])
    net = Net().eval().requires_grad_(False)
    x = torch.from_numpy(np.random.default_rng(1).random((2, 1, 64, 64)).astype(np.float32))
    path = feature_path(Network(forward=net, kind="module"), x, names=("encoders.2",))
    mask = authors_mask(32, 0.2, seed=case["params"]["dropout_seed"])
    state = path.encode(x)
    reference = path.decode(state, [torch.ones_like(mask)]).numpy()
    perturbed = path.decode(state, [mask]).numpy()
    got = [
        binary_agreement(a, b, threshold=case["params"]["threshold"]).nhd
        for a, b in zip(reference, perturbed, strict=True)
    ]
    np.testing.assert_allclose(got, case["independent"]["value"], atol=case["tolerance"])
