"""Networks of several input channels, as factories of the format ``python``."""

from __future__ import annotations

import numpy as np
import torch
from conftest import blobs
from torch import nn

from cte_dask.models.unet import UNet

IMAGE = np.stack([blobs((2, 64, 96), seed=seed) for seed in range(4)])
"""(c, z, y, x)."""


def network(in_channels: int) -> nn.Module:
    """Return a random U-Net whose foreground depends on each channel of its input."""
    torch.manual_seed(in_channels)
    net = UNet(dims=2, features=(4, 8), in_channels=in_channels).eval()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        x = torch.from_numpy(IMAGE[:in_channels, :1].astype("float32").swapaxes(0, 1) / 255)
        net.head.weight *= 2 / net(x).std()
        net.head.bias -= net(x).median()
    return net
