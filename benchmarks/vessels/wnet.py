"""W-Net: two small residual U-Nets, the second refining what the first says of the image.

Galdran et al., "The Little W-Net That Could: State-of-the-Art Retinal Vessel Segmentation with
Minimalistic Models" (2020, arXiv 2009.01907). Modules are named as in the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["WNet"]


class WNet(nn.Module):
    """Logits (N, classes, y, x) of images (N, 3, y, x); extents are multiples of 8.

    Parameters
    ----------
    classes
        1: vessel. 4: background, uncertain, artery, vein.
    widths
        Channels of each level.
    """

    def __init__(self, *, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.unet1 = ResidualUNet(3, classes, widths)
        self.unet2 = ResidualUNet(3 + classes, classes, widths)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the second U-Net says of the image and of the first one's logits."""
        refined: Tensor = self.unet2(torch.cat([x, self.unet1(x)], dim=1))
        return refined


class ResidualUNet(nn.Module):
    """A U-Net of two convolutions a level, with a shortcut around them."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.first = Level(channels, widths[0])
        self.down_path = nn.ModuleList(Level(a, b, pool=True) for a, b in pairs)
        self.up_path = nn.ModuleList(Up(b, a) for a, b in reversed(pairs))
        self.final = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        features = [self.first(x)]
        for down in self.down_path:
            features.append(down(features[-1]))
        x = features.pop()
        for up in self.up_path:
            x = up(x, features.pop())
        logits: Tensor = self.final(x)
        return logits


class Level(nn.Module):
    """Two convolutions and a shortcut, after halving the extent where asked."""

    def __init__(self, channels: int, out: int, *, pool: bool = False) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))
        self.block = nn.Sequential(*_convolution(channels, out), *_convolution(out, out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the level's features."""
        x = self.pool(x)
        features: Tensor = self.block(x) + self.shortcut(x)
        return features


class Up(nn.Module):
    """Double the extent, append the skip after a convolution of its own, mix both."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up_layer = Block(nn.ConvTranspose2d(channels, out, 2, stride=2))
        self.conv_bridge_layer = Block(*_convolution(out, out))
        self.conv_layer = Level(2 * out, out)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Return features of the skip's extent."""
        both = [self.up_layer(deep), self.conv_bridge_layer(skip)]
        mixed: Tensor = self.conv_layer(torch.cat(both, dim=1))
        return mixed


class Block(nn.Module):
    """Layers in a row, under the name that the weights give them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output."""
        features: Tensor = self.block(x)
        return features


def _convolution(channels: int, out: int) -> tuple[nn.Module, ...]:
    """Return a convolution, its activation, and the normalisation of what that gives."""
    return nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(out)
