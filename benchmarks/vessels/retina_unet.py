"""The U-Net of retina-unet: three levels of 32, 64 and 128 channels, nearest upsampling.

Ronneberger, Fischer & Brox, "U-Net" (2015, arXiv 1505.04597), as in github orobix/retina-unet. Its
first weights were trained with Keras 1 on Theano, whose convolution flips the kernel. Its port to
Keras 2 left the poolings at their default, channels last, while all else has channels first: they
halve channels and rows, not rows and columns, and the upsamplings double them. Weights that were
trained so need it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["RetinaUNet", "state_of"]

CONVOLUTIONS = (
    *("top.0", "top.2", "middle.0", "middle.2", "bottom.0", "bottom.2"),
    *("up_middle.0", "up_middle.2", "up_top.0", "up_top.2", "final.0"),
)
"""Names of the convolutions in the order that Keras numbers them, from 1."""


class RetinaUNet(nn.Module):
    """Logits (N, 2, y, x) of background and vessel of gray images (N, 1, y, x).

    They are at least 0: the authors rectify them before the softmax. Extents are multiples of 4.

    Parameters
    ----------
    pools_channels
        Whether poolings act on channels and rows, as in the port to Keras 2.
    """

    def __init__(self, *, pools_channels: bool = False) -> None:
        super().__init__()
        self.pools_channels = pools_channels
        less, more = (2, 2) if pools_channels else (1, 1)
        self.top = _pair(1, 32)
        self.middle = _pair(32 // less, 64)
        self.bottom = _pair(64 // less, 128)
        self.up_middle = _pair(64 + 128 * more, 64)
        self.up_top = _pair(32 + 64 * more, 32)
        self.final = nn.Sequential(nn.Conv2d(32, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        top = self.top(x)
        middle = self.middle(self._halved(top))
        bottom = self.bottom(self._halved(middle))
        middle = self.up_middle(self._appended(middle, bottom))
        logits: Tensor = self.final(self.up_top(self._appended(top, middle)))
        return logits

    def _halved(self, features: Tensor) -> Tensor:
        if not self.pools_channels:
            return functional.max_pool2d(features, 2)
        n, channels, rows, columns = features.shape
        return features.reshape(n, channels // 2, 2, rows // 2, 2, columns).amax(dim=(2, 4))

    def _appended(self, skip: Tensor, deep: Tensor) -> Tensor:
        """Double the extent of deep features and append the skip's."""
        if not self.pools_channels:
            return torch.cat([functional.interpolate(deep, scale_factor=2.0), skip], dim=1)
        doubled = deep.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        return torch.cat([skip, doubled], dim=1)  # the port also appends in the other order


def _pair(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1),
        nn.ReLU(),
    )


def state_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names, and in the layout, of `RetinaUNet`.

    Parameters
    ----------
    weights
        Of Keras 1 on Theano (``convolution2d_1_W``, kernels (out, in, y, x) that Theano flips) or
        of Keras 2 on TensorFlow (``conv2d_1.kernel:0``, (y, x, in, out)).
    """
    state = {}
    for number, name in enumerate(CONVOLUTIONS, start=1):
        theano, tensorflow = f"convolution2d_{number}", f"conv2d_{number}"
        if f"{theano}.{theano}_W" in weights:
            kernel = weights[f"{theano}.{theano}_W"].flip(2, 3)
            bias = weights[f"{theano}.{theano}_b"]
        else:
            kernel = weights[f"{tensorflow}.{tensorflow}.kernel:0"].permute(3, 2, 0, 1)
            bias = weights[f"{tensorflow}.{tensorflow}.bias:0"]
        state[f"{name}.weight"], state[f"{name}.bias"] = kernel.contiguous(), bias
    return state
