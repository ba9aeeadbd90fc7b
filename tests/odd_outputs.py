"""Networks whose inputs and outputs are of other forms, as factories of the format ``python``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from unruly_networks import MIDDLE

FORMS = {
    "image": lambda full, half: full,
    "list": lambda full, half: [full, half],
    "reversed": lambda full, half: (half, full),
    "dict": lambda full, half: {"aux": half, "out": full, "loss": full.mean()},
    "nested": lambda full, half: {"masks": (full, half), "scores": full.mean(dim=(2, 3))},
    "last": lambda full, half: full.movedim(1, -1),
    "alone": lambda full, half: [full],
}
"""How the same image is given."""


class Formed(nn.Module):
    """A small U-Net with an output at half of the resolution beside that of its input."""

    def __init__(self, form: str = "image") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.encoder, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(4, 1, 1)
        self.side = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> object:
        bright = (x - MIDDLE) / 64
        skip = torch.relu(self.encoder(bright))
        deep = torch.relu(self.deep(skip))
        return FORMS[self.form](
            bright + self.head(torch.relu(self.up(deep)) + skip), self.side(deep)
        )


class Coarse(nn.Module):
    """Logits at a fraction of the resolution, as an all-MLP head gives them."""

    def __init__(self, dims: int = 2, stride: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        steps = (stride,) * 2 if dims == 2 else (1, stride, stride)
        self.first, self.second = conv(1, 8, 3, steps, 1), conv(8, 16, 3, steps, 1)
        self.head = conv(16, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        deep = torch.relu(self.second(torch.relu(self.first((x - MIDDLE) / 64))))
        return {"logits": self.head(deep)}


class ChannelsLastIn(nn.Module):
    """Takes and gives images with their channels last, as networks of TensorFlow."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Formed()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x.permute(0, 3, 1, 2))
        return output.permute(0, 2, 3, 1)


class Positions(nn.Module):
    """A vision transformer with learnt positions: it takes images of one extent alone."""

    def __init__(self, extent: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, 16, 8, 8)
        self.places = nn.Parameter(0.1 * torch.randn(1, (extent // 8) ** 2, 16))
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.up, self.detail = nn.ConvTranspose2d(16, 4, 8, 8), nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        bright = (x - MIDDLE) / 64
        patches = self.patches(bright)
        tokens = self.norm(patches.flatten(2).mT + self.places)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        deep = self.up(functional.gelu(tokens).mT.reshape(patches.shape))
        return bright + self.head(torch.relu(deep) + self.detail(bright))


class SegFormer(nn.Module):
    """Overlapping patches, attention to pooled tokens, a head at a quarter of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.ModuleList(
            (nn.Conv2d(1, 8, 7, 4, 3), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1))
        )
        channels = (8, 16, 32)
        self.attention = nn.ModuleList(nn.MultiheadAttention(n, 2) for n in channels)
        self.linear = nn.ModuleList(nn.Conv2d(n, 8, 1) for n in channels)
        self.fuse, self.head = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, maps = (x - MIDDLE) / 64, []
        for patches, attention, linear in zip(
            self.patches, self.attention, self.linear, strict=True
        ):
            x = patches(x)
            tokens = x.flatten(2).permute(2, 0, 1)
            few = functional.avg_pool2d(x, 2, ceil_mode=True).flatten(2).permute(2, 0, 1)
            tokens = tokens + attention(tokens, few, few, need_weights=False)[0]
            x = tokens.permute(1, 2, 0).reshape(x.shape)
            maps.append(linear(x))
        grown = [functional.interpolate(m, maps[0].shape[2:], mode="bilinear") for m in maps]
        return {"logits": self.head(torch.relu(self.fuse(torch.cat(grown, dim=1))))}


class FixedConvolutions(nn.Module):
    """A plain network that refuses all images but those of one extent."""

    def __init__(self, extent: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(extent)]
        self.extent, self.one, self.two = extent, conv(1, 4, 3, padding=1), conv(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.extent != tuple(x.shape[2:]):
            raise ValueError(f"an image of {self.extent} voxels is needed, not {tuple(x.shape)}")
        return self.plain(x)

    def plain(self, x: Tensor) -> Tensor:
        output: Tensor = self.two(torch.relu(self.one(x)))
        return output


def formed(form: str) -> nn.Module:
    return Formed(form).eval()


def coarse(dims: int = 2, stride: int = 2) -> nn.Module:
    return Coarse(dims, stride).eval()


def channels_last_in() -> nn.Module:
    return ChannelsLastIn().eval()


def positions(extent: int) -> nn.Module:
    return Positions(extent).eval()


def segformer() -> nn.Module:
    return SegFormer().eval()


class ThreeChannels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError("it takes 3 channels")
        return x


def three_channels() -> nn.Module:
    return ThreeChannels()


class Twice(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, 2 * x]


def twice() -> nn.Module:
    return Twice()


def unpadded() -> nn.Module:
    """Return a network that gives 32 voxels less than it takes: at 64, a half."""
    return nn.Conv2d(1, 1, 33).eval()
