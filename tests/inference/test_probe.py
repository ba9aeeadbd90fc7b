from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cte_dask.inference.halo import measure_halo
from cte_dask.inference.probe import probe_multiple
from cte_dask.models.unet import UNet


def transparent(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make every path count: positive weights, so that nothing is rectified or cancelled."""
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0 / max(1, parameter[0].numel()))
    return lambda x: network(x.double())


def conv(dims: int, size: int, dilation: int = 1) -> nn.Module:
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    padding = dilation * (size - 1) // 2
    return kind(1, 1, size, padding=padding, dilation=dilation, bias=False)


def unet_halo(levels: int) -> int:
    """Depth to which a border on the pooling grid is felt: 3x3 pairs, pool 2, transpose 2."""
    depth, skips = 0, []
    for level in range(levels):
        depth = (math.ceil(depth / 2) if level else 0) + 2
        skips.append(depth)
    for skip in reversed(skips[:-1]):
        depth = max(2 * depth, skip) + 2
    return depth


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("sizes", "expected"), [([1], 0), ([3], 1), ([5, 3], 3), ([7, 7, 7], 9), ([3] * 9, 9)]
)
def test_the_halo_of_stacked_convolutions_is_exact(
    dims: int, sizes: list[int], expected: int
) -> None:
    forward = transparent(nn.Sequential(*(conv(dims, size) for size in sizes)))
    halo = measure_halo(forward, dims=dims, multiple=1, tolerance=0).zyx
    assert halo == (0 if dims == 2 else expected, expected, expected)


def test_dilation_and_each_axis_are_measured_for_themselves() -> None:
    flat = nn.Conv3d(1, 1, (1, 3, 5), padding=(0, 2, 2), dilation=(1, 2, 1), bias=False)
    assert measure_halo(transparent(flat), dims=3, multiple=1, tolerance=0).zyx == (0, 2, 2)


@pytest.mark.parametrize(("dims", "levels"), [(2, 2), (2, 3), (2, 4), (3, 2), (3, 3)])
def test_the_halo_of_a_u_net_is_exact(dims: int, levels: int) -> None:
    network = UNet(dims=dims, features=(2,) * levels, norm=None)
    expected = unet_halo(levels)
    halo = measure_halo(
        transparent(network), dims=dims, multiple=network.multiple, tolerance=0, limit=48
    ).zyx
    assert halo == (0 if dims == 2 else expected, expected, expected)


@pytest.mark.parametrize("padding", [(3, 0, 0, 0), (0, 3, 0, 0)])
def test_a_network_that_looks_to_one_side_needs_its_halo_there(
    padding: tuple[int, int, int, int],
) -> None:
    lopsided = nn.Sequential(nn.ZeroPad2d(padding), nn.Conv2d(1, 1, (1, 4), bias=False))
    assert measure_halo(transparent(lopsided), dims=2, multiple=1, tolerance=0).zyx == (0, 0, 3)


def test_a_tile_with_the_measured_halo_predicts_what_the_whole_does() -> None:
    torch.manual_seed(0)
    network = UNet(dims=2, features=(4, 8, 8)).eval()
    _, halo, _ = measure_halo(network, dims=2, multiple=4, tolerance=1e-5).zyx
    margin = -(-halo // 4) * 4
    x = torch.rand(1, 1, 160, 160)
    with torch.no_grad():
        whole = network(x)[..., 64:96, 64:96]
        part = network(x[..., 64 - margin : 96 + margin, 64 - margin : 96 + margin])
        core = part[..., margin : margin + 32, margin : margin + 32]
        bare = network(x[..., 64:96, 64:96])
    assert float((core - whole).abs().max()) < 1e-4
    assert float((bare - whole).abs().max()) > 1e-4


def test_a_tolerance_shortens_the_halo() -> None:
    torch.manual_seed(0)
    network = UNet(dims=2, features=(4, 8, 8)).eval()
    loose = measure_halo(network, dims=2, multiple=4, tolerance=1e-2).zyx
    tight = measure_halo(network, dims=2, multiple=4, tolerance=1e-6).zyx
    assert loose < tight


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_a_normalisation_over_the_input_is_said_and_still_given_a_halo(norm: str) -> None:
    torch.manual_seed(0)
    network = UNet(dims=2, features=(4, 8), norm=norm).eval()
    halo = measure_halo(network, dims=2, multiple=2, limit=64)
    assert "sees its whole input" in halo.note
    assert 0 < halo.zyx[1] <= unet_halo(2)
    assert not measure_halo(UNet(dims=2, features=(4, 8)).eval(), dims=2, multiple=2).note


def test_an_activation_is_applied_before_comparing() -> None:
    halo = measure_halo(conv(2, 3), dims=2, multiple=1, activation=torch.zeros_like).zyx
    assert halo == (0, 0, 0)


@pytest.mark.parametrize(("dims", "levels"), [(2, 1), (2, 2), (2, 4), (2, 6), (3, 2), (3, 4)])
def test_the_multiple_of_a_u_net_is_found(dims: int, levels: int) -> None:
    if levels == 1:
        assert probe_multiple(conv(dims, 3), dims=dims) == 1
        return
    network = UNet(dims=dims, features=(2,) * levels, in_channels=2).eval()
    assert probe_multiple(network, dims=dims, in_channels=2) == 2 ** (levels - 1)


def test_outputs_of_another_extent_are_not_accepted() -> None:
    with pytest.raises(ValueError, match=r"no input extent .* gave an output of"):
        probe_multiple(nn.Conv2d(1, 1, 3), dims=2)
    with pytest.raises(ValueError, match="the extents must be equal"):
        measure_halo(nn.Conv2d(1, 1, 3), dims=2, multiple=1)
    pooled = nn.Sequential(nn.MaxPool2d(4, ceil_mode=False), nn.Upsample(scale_factor=4))
    assert probe_multiple(pooled, dims=2) == 4


def test_a_network_that_gives_no_image_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match="not an image of the same axes"):
        probe_multiple(nn.Flatten(), dims=2)
    with pytest.raises(ValueError, match=r"RuntimeError: .*channels"):
        probe_multiple(nn.Conv2d(3, 1, 1), dims=2)
