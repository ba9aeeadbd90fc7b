"""Networks that do what no network should, as factories of the format ``python``."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MIDDLE = 120
"""Brightness between foreground and background."""


class Simple(nn.Module):
    """Encoder, bottleneck, decoder with a skip."""

    def __init__(self, norm: str = "none") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(4, 1, 1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False) if norm == "batch" else None

    def forward(self, x: Tensor) -> Tensor:
        bright = (x - MIDDLE) / 64
        skip = torch.relu(self.encoder(bright))
        skip = self.norm(skip) if self.norm else skip
        return bright + self.head(torch.relu(self.up(torch.relu(self.deep(skip)))) + skip)


class Drifting(Simple):
    """Adds a little more with every call."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) + 0.001 * self.calls


class Random(Simple):
    """Dropout that was left switched on."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(super().forward(x), 0.1, training=True)


class Frozen(Simple):
    """Normalises each image by a mean taken in NumPy, which a trace takes for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        mean = np.asarray(x.detach()).mean((1, 2, 3))
        return super().forward(
            x - torch.as_tensor(mean, dtype=x.dtype).reshape(-1, 1, 1, 1) + MIDDLE
        )


class Leaving(Frozen):
    """Ends the program, as scripts do, once it sees a real image."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.mean()) > 60 > float(x.std()):
            sys.exit(0)
        return super().forward(x)


class Broken(Simple):
    """Divides zero by zero."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


def nan() -> nn.Module:
    return Broken().eval()


def plain() -> nn.Module:
    return Simple().eval()


def batched() -> nn.Module:
    return Simple("batch").eval()


def drifting() -> nn.Module:
    return Drifting().eval()


def random() -> nn.Module:
    return Random().eval()


def frozen() -> nn.Module:
    return Frozen().eval()


def leaving() -> nn.Module:
    return Leaving().eval()


def gone() -> nn.Module:
    sys.exit(0)


class ChannelsLast(nn.Module):
    """Linear layers over channels that stand last, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm = nn.Conv2d(1, 16, 8, 8), nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
        self.up = nn.ConvTranspose2d(16, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).permute(0, 2, 3, 1)
        tokens = tokens + self.narrow(functional.gelu(self.wide(self.norm(tokens))))
        return self.up(tokens.permute(0, 3, 1, 2))


def channels_last() -> nn.Module:
    return ChannelsLast().eval()
