"""A pass cut to the scored core gives there what the whole pass gives, for fewer operations."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.inference.graph.feature_path import example_masks, feature_path
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet


def unet(dims: int = 2, **options) -> nn.Module:
    torch.manual_seed(0)
    return UNet(dims=dims, features=(4, 6, 8), **options).eval().requires_grad_(False)


class Bilinear(nn.Module):
    """Interpolates on the way up: with `ends` aligned, every voxel moves with the extent."""

    def __init__(self, ends: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 4, 3, stride=4, padding=1)
        self.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=ends)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        return self.last(torch.cat([skip, self.up(self.deep(skip))], 1))


class Normed(nn.Module):
    """A decoder with a norm that sees its whole input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.norm, self.last = nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.up(self.down(x))))


def path_of(module: nn.Module, shape, core):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    module = module.eval().requires_grad_(False)
    return feature_path(Network(forward=module, kind="module"), x, core=core), x


def uncut_and_cut(path, x: Tensor, core) -> tuple[Tensor, Tensor]:
    masks = example_masks(x, path.channels, random=True)
    with torch.inference_mode():
        whole = path.decode(path.encode(x), masks)[(..., *core)]
        part = path.decode(path.encode(x, cropped=True), masks)[(..., *path.crop.core)]
    return whole, part


def flops(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


UNETS = {
    "2d": (unet, (2, 1, 96, 128), (slice(30, 62), slice(41, 80))),
    "nearest": (lambda: unet(upsample="nearest"), (1, 1, 96, 96), (slice(32, 64),) * 2),
    "3d": (lambda: unet(3), (1, 1, 48, 64, 64), (slice(20, 28), slice(24, 40), slice(28, 39))),
    "at the end": (unet, (1, 1, 96, 96), (slice(0, 40), slice(60, 96))),
    "bilinear": (lambda: Bilinear(False), (1, 1, 96, 96), (slice(32, 64),) * 2),
}


@pytest.mark.parametrize("name", UNETS)
def test_the_core_is_the_same_for_fewer_operations(name):
    make, shape, core = UNETS[name]
    path, x = path_of(make(), shape, core)
    assert path.note == ""
    assert path.crop is not None
    whole, part = uncut_and_cut(path, x, core)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)
    masks = example_masks(x, path.channels, random=False)
    cut, all_ = (
        flops(lambda c=c: path.decode(path.encode(x, cropped=c), masks)) for c in (True, False)
    )
    assert cut < 0.9 * all_


def test_weights_that_hide_how_far_a_decoder_sees_change_nothing():
    module = unet()
    path, _ = path_of(module, *UNETS["2d"][1:])
    for layer in module.decoders.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight[..., 0, :] = 0
            layer.weight[..., 0] = 0
    hidden, _ = path_of(module, *UNETS["2d"][1:])
    assert hidden.crop == path.crop


@pytest.mark.parametrize(
    "make",
    [
        Normed,
        lambda: Bilinear(True),
        lambda: unet(norm="instance"),
        lambda: BasicUNet(
            spatial_dims=2, in_channels=1, out_channels=1, features=(4, 4, 8, 8, 8, 4)
        ),
    ],
    ids=["group norm", "aligned corners", "instance norm", "monai"],
)
def test_what_depends_on_the_whole_extent_is_not_cut(make):
    path, x = path_of(make(), (1, 1, 96, 96), (slice(32, 64),) * 2)
    assert path.note == ""
    assert path.crop is None
    with torch.inference_mode():
        masks = example_masks(x, path.channels, random=False)
        assert path.decode(path.encode(x), masks).shape == x.shape


def test_a_core_that_needs_all_of_the_frame_is_not_cut():
    path, _ = path_of(unet(), (1, 1, 32, 32), (slice(2, 30),) * 2)
    assert path.crop is None


def test_models_of_one_code_share_what_was_found(monkeypatch):
    from cte_dask.inference.graph import proving

    calls = []
    real = proving.find_reach
    monkeypatch.setattr(proving, "find_reach", lambda *a: calls.append(1) or real(*a))
    make, shape, core = UNETS["2d"]
    x = torch.rand(shape)
    opened = Network(forward=make(), kind="module", code="test-crop-shared")
    paths = [feature_path(opened, x, core=core) for _ in range(2)]
    assert paths[0].crop == paths[1].crop is not None
    assert len(calls) == 1
