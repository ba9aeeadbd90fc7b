"""The U-Net family of the paper, in two and three dimensions.

Two convolutions a level, max-pooling on the way down, upsampling and a concatenated skip on the way
up, and a 1x1 convolution at the end that gives logits. The modules carry readable names, and
``encoders.<last>`` returns the bottleneck's features.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["UNet"]

# Outside of `forward`: TorchScript takes mypy's ``type: ignore`` in a function for its own.
_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}
_NORMS = ("batch", "group", "instance", None)
_UPSAMPLES = ("transpose", "nearest")


class UNet(nn.Module):
    """U-Net giving one logit a voxel and output channel.

    Parameters
    ----------
    dims
        2 for planes, 3 for boxes.
    in_channels, out_channels
        Channels of the image and of the logits.
    features
        Channels of each level, from the finest to the bottleneck; two levels or more.
    norm
        Normalisation after each convolution: ``"batch"``, ``"group"`` (groups of the greatest
        common divisor of 8 and the channels), ``"instance"`` or None.
    dropout
        Rate in [0, 1) of the spatial dropout at the end of each encoder in training; evaluation
        drops nothing, and the rate changes no key of the state dict.
    upsample
        ``"transpose"``: transposed convolution; ``"nearest"``: repeated voxels, then a convolution.

    Attributes
    ----------
    multiple : int
        Every spatial extent of the input must be a multiple of this, ``2 ** (levels - 1)``.

    Raises
    ------
    ValueError
        If a parameter is outside what is listed above.

    References
    ----------
    Ronneberger, Fischer, Brox (2015), doi:10.1007/978-3-319-24574-4_28 (2D); Çiçek et al. (2016),
    doi:10.1007/978-3-319-46723-8_49 (3D). As in later practice, the convolutions are padded.

    Examples
    --------
    >>> network = UNet(dims=2, features=(4, 8, 16)).eval()
    >>> network.multiple, network(torch.zeros(1, 1, 32, 48)).shape
    (4, torch.Size([1, 1, 32, 48]))
    """

    def __init__(
        self,
        *,
        dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        features: Sequence[int] = (16, 32, 64, 128),
        norm: str | None = "batch",
        dropout: float = 0.0,
        upsample: str = "transpose",
    ) -> None:
        super().__init__()
        _check_channels(features, in_channels, out_channels)
        _check_choices(dims, norm, dropout, upsample)
        self.dims = dims
        self.multiple = 2 ** (len(features) - 1)
        widths = (in_channels, *features)
        self.encoders = nn.ModuleList(
            _encoder(dims, narrow, wide, norm=norm, dropout=dropout, pooled=level > 0)
            for level, (narrow, wide) in enumerate(zip(widths, features, strict=False))
        )
        self.decoders = nn.ModuleList(
            _Decoder(dims, deep, shallow, norm, upsample)
            # neighbouring levels from the bottleneck upwards
            for deep, shallow in zip(features[:0:-1], features[-2::-1], strict=True)
        )
        self.head = _CONV[dims](features[0], out_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of a batch of images.

        Parameters
        ----------
        image
            Floating point, (n, in_channels, y, x) or (n, in_channels, z, y, x).

        Returns
        -------
        Tensor
            Logits, (n, out_channels, ...), of the extent of ``image``.

        Raises
        ------
        ValueError
            If ``image`` has another number of axes, or an extent is no multiple of ``multiple``.
        """
        # A trace would record the comparison as a constant and warn; its extents are fixed anyway.
        if not _is_tracing():
            _check_extents(image, self.dims, self.multiple)
        skips: list[Tensor] = []
        for encoder in self.encoders:
            image = encoder(image)
            skips.append(image)
        # skips[-1] is the bottleneck itself, so the deepest decoder takes skips[-2]
        for level, decoder in enumerate(self.decoders):
            image = decoder(image, skips[-2 - level])
        logits: Tensor = self.head(image)
        return logits


class _Decoder(nn.Module):
    """Upsample the deeper features, put the skip beside them, convolve twice."""

    def __init__(self, dims: int, deep: int, shallow: int, norm: str | None, upsample: str) -> None:
        super().__init__()
        self.up = _upsampling(dims, deep, shallow, upsample)
        self.convolutions = nn.Sequential(_convolutions(dims, 2 * shallow, shallow, norm))

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.convolutions(torch.cat((skip, self.up(deep)), dim=1))
        return joined


def _encoder(
    dims: int, narrow: int, wide: int, *, norm: str | None, dropout: float, pooled: bool
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pooled:
        layers["pool"] = _POOL[dims](2)
    layers.update(_convolutions(dims, narrow, wide, norm))
    if dropout:
        layers["dropout"] = _DROPOUT[dims](dropout)
    return nn.Sequential(layers)


def _convolutions(
    dims: int, narrow: int, wide: int, norm: str | None
) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, channels in enumerate((narrow, wide), start=1):
        layers[f"conv{number}"] = _CONV[dims](channels, wide, 3, padding=1, bias=norm is None)
        if norm is not None:
            layers[f"norm{number}"] = _normalisation(dims, wide, norm)
        # Not in place: the outputs of modules are stored and read again after the next module ran.
        layers[f"relu{number}"] = nn.ReLU()
    return layers


def _normalisation(dims: int, channels: int, norm: str) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if norm == "instance":
        return _INSTANCE[dims](channels, affine=True)
    return _BATCH[dims](channels)


def _upsampling(dims: int, deep: int, shallow: int, upsample: str) -> nn.Module:
    if upsample == "transpose":
        return _TRANSPOSE[dims](deep, shallow, kernel_size=2, stride=2)
    # Upsample first: a convolution before it would be the last module at the smallest extent, and
    # be taken for the bottleneck.
    return nn.Sequential(
        nn.Upsample(scale_factor=2.0, mode="nearest"), _CONV[dims](deep, shallow, 3, padding=1)
    )


def _check_channels(features: Sequence[int], in_channels: int, out_channels: int) -> None:
    if len(features) < 2 or min(features) < 1:
        raise ValueError(
            f"features {tuple(features)}: give two levels or more, each of at least one channel"
        )
    if in_channels < 1 or out_channels < 1:
        raise ValueError(
            f"in_channels {in_channels} and out_channels {out_channels}: each is at least 1"
        )


def _check_choices(dims: int, norm: str | None, dropout: float, upsample: str) -> None:
    if dims not in _CONV:
        raise ValueError(f"dims {dims!r}: a U-Net here has 2 or 3 spatial dimensions")
    if norm not in _NORMS:
        raise ValueError(f"norm {norm!r}: choose one of {_NORMS}")
    if upsample not in _UPSAMPLES:
        raise ValueError(f"upsample {upsample!r}: choose one of {_UPSAMPLES}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout!r}: a rate in [0, 1) is needed")


def _check_extents(image: Tensor, dims: int, multiple: int) -> None:
    if image.dim() != dims + 2:
        raise ValueError(
            f"input of {image.dim()} axes: a {dims}D U-Net takes {dims + 2} (n, c, spatial axes)"
        )
    for axis in range(2, image.dim()):
        if image.size(axis) % multiple != 0:
            raise ValueError(
                f"extent {image.size(axis)} along axis {axis} of the input is no multiple of "
                f"{multiple}: pad the image"
            )
