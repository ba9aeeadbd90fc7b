"""The U-Nets of pytorch-3dunet, under its parameter names, so that its checkpoints load.

Written from the published description of the family: levels of two convolutions (or residual
blocks, with squeeze and excitation), maximum pooling, and skips that are concatenated (or added).
Modules carry the names that the checkpoints use. The forward pass returns logits; the bank's
``output.activation`` turns them into probabilities.

References
----------
Wolny et al. (2020), doi:10.7554/eLife.57613 (PlantSeg); Çiçek et al. (2016),
doi:10.1007/978-3-319-46723-8_49; Lee et al. (2017), arXiv:1706.00120 (residual);
Roy et al. (2018), arXiv:1803.02579 (squeeze and excitation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CONV", "NETWORKS", "Layers", "UNet3DFamily", "double", "residual"]

CONV = {2: nn.Conv2d, 3: nn.Conv3d}

_BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
# Not in place: the outputs of modules are stored and read again after the next module ran.
_PLAIN: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "r": ("ReLU", nn.ReLU),
    "l": ("LeakyReLU", nn.LeakyReLU),
    "e": ("ELU", nn.ELU),
    "d": ("dropout", nn.Dropout),
    "D": ("dropout2d", nn.Dropout2d),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Order of operations, groups and padding that all convolutions of a network share.

    Parameters
    ----------
    dims
        Spatial dimensions, 2 or 3.
    order
        One letter an operation: ``c`` convolution, ``g`` group norm, ``b`` batch norm, ``r`` ReLU,
        ``l`` leaky ReLU, ``e`` ELU, ``d`` and ``D`` dropout (nothing in evaluation).
    groups
        Groups of the group norms.
    padding
        Padding of the convolutions, which are 3 voxels wide.

    Raises
    ------
    ValueError
        If the order has another letter, not one ``c``, or starts with an activation.
    """

    dims: int
    order: str = "gcr"
    groups: int = 8
    padding: int = 1

    def __post_init__(self) -> None:
        odd = set(self.order) - set("cgbrledD")
        repeated = len(set(self.order)) < len(self.order)
        if odd or repeated or "c" not in self.order or self.order[0] in "rle":
            raise ValueError(
                f"layer_order {self.order!r}: the letters of c, g, b, r, l, e, d, D once each, "
                "with c, and no activation first"
            )
        if self.groups < 1:
            raise ValueError(f"num_groups {self.groups!r} must be at least 1")

    def single(self, narrow: int, wide: int, *, order: str | None = None) -> nn.Sequential:
        """Return one convolution with its normalisation and activation."""
        letters = self.order if order is None else order
        block, groups = nn.Sequential(), self.groups
        for position, letter in enumerate(letters):
            # a normalisation before the convolution sees its input, one after it its output
            channels = narrow if position < letters.index("c") else wide
            if letter == "c":
                # as in the original: no bias beside any normalisation
                bias = not set("gb") & set(letters)
                convolution = CONV[self.dims](narrow, wide, 3, padding=self.padding, bias=bias)
                block.add_module("conv", convolution)
            elif letter in _PLAIN:
                name, layer = _PLAIN[letter]
                block.add_module(name, layer())
            elif letter == "b":
                block.add_module("batchnorm", _BATCH[self.dims](channels))
            else:
                # as in the original, for the group norms that follow in this block too
                groups = 1 if channels < groups else groups
                block.add_module("groupnorm", _group_norm(groups, channels))
        return block


def _group_norm(groups: int, channels: int) -> nn.GroupNorm:
    if channels % groups:
        raise ValueError(f"{channels} feature maps do not divide into {groups} groups")
    return nn.GroupNorm(groups, channels)


def double(layers: Layers, narrow: int, middle: int, wide: int) -> nn.Sequential:
    """Return two convolutions, with `narrow` to `middle` to `wide` channels."""
    block = nn.Sequential()
    block.add_module("SingleConv1", layers.single(narrow, middle))
    block.add_module("SingleConv2", layers.single(middle, wide))
    return block


def residual(block: str, layers: Layers, narrow: int, wide: int) -> nn.Module:
    """Return a residual block; ``"residual_se"`` adds squeeze and excitation."""
    return (
        _ResidualSE(layers, narrow, wide)
        if block == "residual_se"
        else _Residual(layers, narrow, wide)
    )


class _Residual(nn.Module):
    def __init__(self, layers: Layers, narrow: int, wide: int) -> None:
        super().__init__()
        self.conv1 = CONV[layers.dims](narrow, wide, 1) if narrow != wide else nn.Identity()
        # the last convolution has no activation: it comes after the sum with the shortcut
        linear = "".join(letter for letter in layers.order if letter not in "rle")
        self.conv2 = layers.single(wide, wide)
        self.conv3 = layers.single(wide, wide, order=linear)
        if "l" in layers.order:
            self.non_linearity: nn.Module = nn.LeakyReLU(0.1)
        else:
            self.non_linearity = nn.ELU() if "e" in layers.order else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.conv1(x)
        result: Tensor = self.non_linearity(self.conv3(self.conv2(shortcut)) + shortcut)
        return result


class _ResidualSE(_Residual):
    def __init__(self, layers: Layers, narrow: int, wide: int) -> None:
        super().__init__(layers, narrow, wide)
        self.se_module = _Excitation(layers.dims, wide)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.se_module(super().forward(x))
        return result


class _Excitation(nn.Module):
    """Concurrent spatial and channel squeeze and excitation: the larger of the two."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.cSE = nn.ModuleDict(
            {"fc1": nn.Linear(channels, channels), "fc2": nn.Linear(channels, channels)}
        )
        self.sSE = nn.ModuleDict({"conv": CONV[dims](channels, 1, 1)})

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.flatten(2).mean(2)
        gate = torch.sigmoid(self.cSE["fc2"](torch.relu(self.cSE["fc1"](squeezed))))
        gate = gate.reshape(*gate.shape, *(1,) * (x.ndim - 2))
        return torch.maximum(x * gate, x * torch.sigmoid(self.sSE["conv"](x)))


_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_UPSAMPLES = ("nearest", "linear", "bilinear", "trilinear", "area")

NETWORKS = {
    "UNet2D": (2, "double"),
    "UNet3D": (3, "double"),
    "ResidualUNet2D": (2, "residual"),
    "ResidualUNet3D": (3, "residual"),
    "ResidualUNetSE3D": (3, "residual_se"),
}
"""Name of a network → its spatial dimensions and kind of block."""


class UNet3DFamily(nn.Module):
    """Any network of the family.

    Parameters
    ----------
    block
        ``"double"``, ``"residual"`` or ``"residual_se"``.
    layers
        Settings of every convolution.
    in_channels, out_channels
        Channels of the image and of the logits.
    features
        Feature maps of each level, from the finest; two levels or more.
    upscale
        1 if the first convolution of a double block returns all feature maps, 2 if it returns half
        of them.
    upsample
        ``"default"`` (nearest, or transposed convolutions for residual blocks), ``"deconv"``, or a
        mode of interpolation.

    Raises
    ------
    ValueError
        If the levels, upsampling or feature maps are none of those above.
    """

    def __init__(
        self,
        *,
        block: str,
        layers: Layers,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        upscale: int = 2,
        upsample: str = "default",
    ) -> None:
        super().__init__()
        if len(features) < 2 or min(*features, in_channels, out_channels) < 1:
            raise ValueError(f"f_maps {list(features)}: two levels or more are needed")
        if upsample not in ("default", "deconv", *_UPSAMPLES):
            raise ValueError(f"upsample {upsample!r}: one of default, deconv, {_UPSAMPLES}")
        if block != "double" and upsample != "default":
            raise ValueError(f"upsample {upsample!r}: residual networks have default only")
        if upsample == "deconv" and any(
            deep != 2 * shallow for shallow, deep in pairwise(features)
        ):
            raise ValueError(
                f"f_maps {list(features)}: upsample deconv needs twice as many a level"
            )
        # (in_channels, f0, f1, …) with (f0, f1, …): each level's narrow and wide channels
        self.encoders = nn.ModuleList(
            _EncoderLevel(block, layers, narrow, wide, upscale, pooled=level > 0)
            for level, (narrow, wide) in enumerate(
                zip((in_channels, *features), features, strict=False)
            )
        )
        self.decoders = nn.ModuleList(
            _DecoderLevel(block, layers, deep, shallow, upsample)
            # neighbouring levels from the bottleneck upwards
            for deep, shallow in zip(features[:0:-1], features[-2::-1], strict=True)
        )
        self.final_conv = CONV[layers.dims](features[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (n, out_channels, [z,] y, x) of images (n, in_channels, [z,] y, x)."""
        skips: list[Tensor] = []
        for encoder in self.encoders:
            image = encoder(image)
            skips.append(image)
        # skips[-1] is the bottleneck itself, so the deepest decoder takes skips[-2]
        for level, decoder in enumerate(self.decoders):
            image = decoder(image, skips[-2 - level])
        logits: Tensor = self.final_conv(image)
        return logits


class _EncoderLevel(nn.Module):
    def __init__(
        self, block: str, layers: Layers, narrow: int, wide: int, upscale: int, *, pooled: bool
    ) -> None:
        super().__init__()
        self.pooling = _POOL[layers.dims](2) if pooled else nn.Identity()
        if block == "double":
            middle = max(wide if upscale == 1 else wide // 2, narrow)
            self.basic_module: nn.Module = double(layers, narrow, middle, wide)
        else:
            self.basic_module = residual(block, layers, narrow, wide)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.basic_module(self.pooling(x))
        return result


class _DecoderLevel(nn.Module):
    def __init__(self, block: str, layers: Layers, deep: int, shallow: int, upsample: str) -> None:
        super().__init__()
        self.adds = block != "double"
        if self.adds:
            self.upsampling: nn.Module = _Transposed(layers, deep, shallow)
            self.basic_module: nn.Module = residual(block, layers, shallow, shallow)
        elif upsample == "deconv":
            self.upsampling = _Transposed(layers, deep, shallow)
            self.basic_module = double(layers, 2 * shallow, shallow, shallow)
        else:
            self.upsampling = _Interpolated("nearest" if upsample == "default" else upsample)
            self.basic_module = double(layers, deep + shallow, shallow, shallow)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.upsampling(x, skip.shape[2:])
        joined = skip + x if self.adds else torch.cat((skip, x), dim=1)
        result: Tensor = self.basic_module(joined)
        return result


class _Interpolated(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return functional.interpolate(x, size=list(size), mode=self.mode)


class _Transposed(nn.Module):
    """A transposed convolution, whose extent 2n - 1 is interpolated to that of the skip."""

    def __init__(self, layers: Layers, deep: int, shallow: int) -> None:
        super().__init__()
        convolution = _TRANSPOSE[layers.dims](deep, shallow, 3, stride=2, padding=1, bias=False)
        # The checkpoints name it upsampling.upsample.conv_transposed.
        self.upsample = nn.ModuleDict({"conv_transposed": convolution})

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return functional.interpolate(self.upsample["conv_transposed"](x), size=list(size))
