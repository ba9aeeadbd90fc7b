"""Decoder layers: found behind the bottleneck, kept while predictions run, read like upsampled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional

from cte_dask.evaluation.comparators.decoder_features import captured, decoder_layers, features_at
from cte_dask.inference.graph.bottleneck import BlackBoxError
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet


def network(module: nn.Module, kind: str = "module") -> Network:
    return Network(forward=module.eval(), kind=kind)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_layers_are_the_decoders_features_not_the_logits(dims):
    found = decoder_layers(
        network(UNet(dims=dims, features=(4, 6, 8))), torch.rand(2, 1, *(16,) * dims)
    )
    assert [layer.extent for layer in found] == [(8,) * dims, (16,) * dims]
    assert [layer.channels for layer in found] == [6, 4]
    assert all(layer.name.startswith("decoders.") for layer in found)


class Twice(nn.Module):
    """One convolution used at two extents of the decoder."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=4, padding=1)
        self.both = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = self.down(x)
        for _ in range(2):
            x = self.both(functional.interpolate(x, scale_factor=2.0))
        return self.head(x)


def test_calls_of_one_module_are_told_apart_in_every_pass():
    module, x = Twice(), torch.rand(2, 1, 16, 16)
    layers = decoder_layers(network(module), x)
    assert [(c.name, c.call, c.calls) for c in layers] == [("both", 0, 2), ("both", 1, 2)]
    batches = [torch.rand(2, 1, 16, 16) for _ in range(3)]
    with torch.no_grad(), captured(module, layers) as kept:
        for batch in batches:
            module(batch)
        assert [len(maps) for maps in kept.maps] == [3, 3]
        deep = functional.interpolate(module.down(batches[2]), scale_factor=2.0)
        wanted = functional.conv2d(deep, module.both.weight, module.both.bias, padding=1)
    assert_allclose(kept.sample(0, 5).numpy(), wanted[1].numpy(), atol=1e-6)
    module(x)
    assert len(kept.maps[0]) == 3, "nothing is kept outside"


@pytest.mark.parametrize("dims", [2, 3])
def test_features_at_voxels_are_those_of_the_upsampled_map(dims):
    small, size = torch.rand(3, *(4,) * dims), 16
    mode = "bilinear" if dims == 2 else "trilinear"
    whole = functional.interpolate(small[None], scale_factor=4.0, mode=mode)[0]
    voxels = np.random.default_rng(0).integers(0, size, (50, dims))
    found = features_at(small, (voxels + 0.5) / size)
    assert_allclose(found, whole[(slice(None), *voxels.T)].T.numpy(), atol=1e-5)


def test_networks_without_a_decoder_are_told():
    flat = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 1, 1))
    with pytest.raises(BlackBoxError, match="no bottleneck"):
        decoder_layers(network(flat), torch.rand(1, 1, 8, 8))
    scripted = torch.nn.Identity()
    with pytest.raises(BlackBoxError, match=r"no nn\.Module.*script"):
        decoder_layers(network(scripted, "script"), torch.rand(1, 1, 8, 8))
    shrunk = nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2))
    with pytest.raises(BlackBoxError, match="behind the bottleneck"):
        decoder_layers(network(shrunk), torch.rand(1, 1, 8, 8))
