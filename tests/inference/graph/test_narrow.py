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
        part = path.decode(path.encode(x, cropped=True), masks, cropped=True)
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
    assert path.core is not None
    whole, part = uncut_and_cut(path, x, core)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)
    masks = example_masks(x, path.channels, random=False)
    cut, all_ = (flops(lambda c=c: path.run(x, masks, cropped=c)) for c in (True, False))
    assert cut < 0.9 * all_


PARTLY = {
    "aligned corners": lambda: Bilinear(True),
    "needs most of the frame": unet,
}


@pytest.mark.parametrize("name", PARTLY)
def test_what_comes_last_is_cut_where_what_comes_first_needs_the_frame(name):
    shape, core = (1, 1, 64, 64), (slice(16, 48),) * 2
    path, x = path_of(PARTLY[name](), shape, core)
    assert path.inner is not None
    assert all(stop - start > 60 for start, stop in path.inner.box)
    whole, part = uncut_and_cut(path, x, core)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        Normed,
        lambda: unet(norm="instance"),
        lambda: BasicUNet(
            spatial_dims=2, in_channels=1, out_channels=1, features=(4, 4, 8, 8, 8, 4)
        ),
    ],
    ids=["group norm", "instance norm", "monai"],
)
def test_what_depends_on_the_whole_extent_is_not_cut(make):
    path, x = path_of(make(), (1, 1, 96, 96), (slice(32, 64),) * 2)
    assert path.note == ""
    assert path.core is None
    with torch.inference_mode():
        masks = example_masks(x, path.channels, random=False)
        assert path.run(x, masks, cropped=True).shape == x.shape


class Layers(nn.Module):
    """Some layers between an encoder and a decoder of its own."""

    def __init__(self, *layers: nn.Module, factor: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.layers = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Sequential(*layers)
        self.up = nn.Upsample(scale_factor=factor)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.layers(self.down(x))))


LAYERS = {
    "dilated": lambda: Layers(nn.Conv2d(4, 4, 3, padding=3, dilation=3), nn.ReLU()),
    "strided": lambda: Layers(nn.Conv2d(4, 4, 5, padding=2, stride=2), factor=4),
    "without padding": lambda: Layers(nn.Conv2d(4, 4, 3), nn.ZeroPad2d(1)),
    "max pool": lambda: Layers(nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), factor=4),
    "overlapping pool": lambda: Layers(nn.MaxPool2d(3, 2, 1), factor=4),
    "mean pool": lambda: Layers(nn.AvgPool2d(2), nn.LeakyReLU(), factor=4),
    "padded mean pool": lambda: Layers(nn.AvgPool2d(3, 2, 1), factor=4),
    "transposed, overlapping": lambda: Layers(
        nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
    ),
    "transposed, uneven": lambda: Layers(
        nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
    ),
    "norm": lambda: Layers(nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.PReLU(), factor=4),
    "shuffle": lambda: Layers(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.AvgPool2d(2)),
    "bilinear": lambda: Layers(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 3, 2, 1)
    ),
}
PLACES = {
    "inside": (slice(31, 57), slice(40, 64)),
    "at the border": (slice(0, 20), slice(70, 96)),
    "near it": (slice(3, 21), slice(66, 92)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_gives_in_a_box_what_it_gives_in_all(name, place):
    core = PLACES[place]
    path, x = path_of(LAYERS[name](), (2, 1, 96, 96), core)
    assert path.note == ""
    assert path.core is not None
    whole, part = uncut_and_cut(path, x, core)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)


def test_models_of_one_code_share_what_was_found(monkeypatch):
    from cte_dask.inference.graph import feature_path as paths

    calls = []
    real = paths.faster
    monkeypatch.setattr(paths, "faster", lambda *a: calls.append(1) or real(*a))
    make, shape, core = UNETS["2d"]
    x, other = torch.rand(shape), (slice(20, 52), slice(41, 80))
    opened = Network(forward=make(), kind="module", code="test-narrow-shared")
    path, *paths = [feature_path(opened, x, core=c) for c in (core, core, other)]
    assert [p.inner.core for p in (path, *paths)] == [core, core, other]
    assert len(calls) == 1
    for each, place in zip((path, *paths), (core, core, other), strict=True):
        whole, part = uncut_and_cut(each, x, place)
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)
