"""The convolution blocks of pytorch-3dunet's networks, under its parameter names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["CONV", "Layers", "double", "residual"]

CONV = {2: nn.Conv2d, 3: nn.Conv3d}

_BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
# Without inplace: who keeps the output of a module must find it unchanged.
_PLAIN: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "r": ("ReLU", nn.ReLU),
    "l": ("LeakyReLU", nn.LeakyReLU),
    "e": ("ELU", nn.ELU),
    "d": ("dropout", nn.Dropout),
    "D": ("dropout2d", nn.Dropout2d),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What every convolution of a network has in common.

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
        Of the convolutions, which are 3 voxels wide.

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
            channels = narrow if position < letters.index("c") else wide
            if letter == "c":
                bias = not set("gb") & set(letters)
                convolution = CONV[self.dims](narrow, wide, 3, padding=self.padding, bias=bias)
                block.add_module("conv", convolution)
            elif letter in _PLAIN:
                name, layer = _PLAIN[letter]
                block.add_module(name, layer())
            elif letter == "b":
                block.add_module("batchnorm", _BATCH[self.dims](channels))
            else:
                groups = 1 if channels < groups else groups
                block.add_module("groupnorm", _group_norm(groups, channels))
        return block


def _group_norm(groups: int, channels: int) -> nn.GroupNorm:
    if channels % groups:
        raise ValueError(f"{channels} feature maps do not divide into {groups} groups")
    return nn.GroupNorm(groups, channels)


def double(layers: Layers, narrow: int, middle: int, wide: int) -> nn.Sequential:
    """Return two convolutions, from narrow over middle to wide channels."""
    block = nn.Sequential()
    block.add_module("SingleConv1", layers.single(narrow, middle))
    block.add_module("SingleConv2", layers.single(middle, wide))
    return block


def residual(block: str, layers: Layers, narrow: int, wide: int) -> nn.Module:
    """Return a residual block, for ``"residual_se"`` with squeeze and excitation."""
    return (
        _ResidualSE(layers, narrow, wide)
        if block == "residual_se"
        else _Residual(layers, narrow, wide)
    )


class _Residual(nn.Module):
    def __init__(self, layers: Layers, narrow: int, wide: int) -> None:
        super().__init__()
        self.conv1 = CONV[layers.dims](narrow, wide, 1) if narrow != wide else nn.Identity()
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
