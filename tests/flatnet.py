"""A network without a bottleneck, made by a factory as format ``python`` wants it."""

from __future__ import annotations

import torch
from torch import nn


def make() -> nn.Module:
    """Return two convolutions at full extent: nothing that feature perturbation could touch."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
