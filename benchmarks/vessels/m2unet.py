"""M2U-Net: a MobileNetV2 encoder, a decoder of narrow inverted residuals.

Laibacher, Weyde & Jalali, "M2U-Net: Effective and Efficient Retinal Vessel Segmentation for
Real-World Applications" (2019, arXiv 1811.07738); inverted residuals: Sandler et al., "MobileNetV2"
(2018, arXiv 1801.04381). Modules are named as in the published weights.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["M2UNet"]

RESIDUALS = (
    (16, 1, 1),
    *((24, stride, 6) for stride in (2, 1)),
    *((32, stride, 6) for stride in (2, 1, 1)),
    *((64, stride, 6) for stride in (2, 1, 1, 1)),
    *((96, stride, 6) for stride in (1, 1, 1)),
)
"""Channels, stride and expansion of the encoder's inverted residuals."""
STAGES = (0, 2, 4, 7, 14)
"""Where its four stages begin among its layers, the first a plain convolution."""
DECODER_EXPANSION = 0.15


class M2UNet(nn.Module):
    """Vessel logits (N, 1, y, x) of images (N, 3, y, x); extents are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()
        )
        layers: list[nn.Module] = [first]
        channels = 32
        for out, stride, expansion in RESIDUALS:
            layers.append(InvertedResidual(channels, out, stride=stride, expansion=expansion))
            channels = out
        # the weights number the layers through all stages
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(OrderedDict((str(i), layers[i]) for i in range(start, stop)))
            for start, stop in pairwise(STAGES)
        )
        self.decode4 = Decoder(96 + 32, 64)
        self.decode3 = Decoder(64 + 24, 44)
        self.decode2 = Decoder(44 + 16, 30)
        self.decode1 = Decoder(30 + 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        half = self.conv1(x)
        quarter = self.conv2(half)
        eighth = self.conv3(quarter)
        deep = self.decode4(self.conv4(eighth), eighth)
        logits: Tensor = self.decode1(self.decode2(self.decode3(deep, quarter), half), x)
        return logits


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to the input where both are alike."""

    def __init__(self, channels: int, out: int, *, stride: int, expansion: float) -> None:
        super().__init__()
        width = round(channels * expansion)
        widen = [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        self.conv = nn.Sequential(
            *(widen if expansion != 1 else []),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, the input added where shapes agree."""
        features: Tensor = self.conv(x)
        return x + features if self.residual else features


class Decoder(nn.Module):
    """Double the extent, append the encoder's features, mix both."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.ir1 = InvertedResidual(channels, out, stride=1, expansion=DECODER_EXPANSION)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Return features of the skip's extent."""
        mixed: Tensor = self.ir1(torch.cat([self.upsample(deep), skip], dim=1))
        return mixed
