"""Random crops of a pack with geometric and intensity augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .packs import Pack

Planes = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True)
class Augmentation:
    """How strongly crops vary; zeros leave them as they are.

    Parameters
    ----------
    zoom, contrast, gamma
        Factors are drawn log-uniformly from [1 / (1 + value), 1 + value].
    brightness
        Offsets are drawn uniformly from [-value, value].
    noise
        Standard deviations of Gaussian noise are drawn uniformly from [0, value].
    blur
        Standard deviations of a Gaussian blur in pixels are drawn uniformly from [0, value].
    flips
        Whether crops are flipped and turned by multiples of 90 degrees.
    """

    zoom: float = 0.3
    contrast: float = 0.6
    gamma: float = 0.5
    brightness: float = 0.1
    noise: float = 0.1
    blur: float = 1.0
    flips: bool = True


FULL = Augmentation()
PLAIN = Augmentation(0, 0, 0, 0, 0, 0, flips=False)


def batch(
    pack: Pack, augmentation: Augmentation, rng: np.random.Generator, *, size: int, number: int
) -> tuple[Tensor, Tensor]:
    """Draw ``number`` augmented crops: images and masks, both float32 (number, 1, size, size)."""
    crops = [_crop(pack, augmentation, rng, size) for _ in range(number)]
    images = torch.stack([image for image, _ in crops])
    return _intensity(images, augmentation, rng), torch.stack([mask for _, mask in crops])


def _crop(
    pack: Pack, augmentation: Augmentation, rng: np.random.Generator, size: int
) -> tuple[Tensor, Tensor]:
    height, width = pack.images.shape[1:]
    side = min(round(size * _factor(rng, augmentation.zoom)), height, width)
    image, mask = _window(pack, rng, side)
    if augmentation.flips:
        image, mask = _turned((image, mask), rng)
    planes = torch.from_numpy(np.stack([image, mask.astype(np.float32)]))[:, None]
    planes = F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False)
    return planes[0], (planes[1] > 0.5).float()


def _window(pack: Pack, rng: np.random.Generator, side: int) -> Planes:
    """Cut a window; every second one is made to show some foreground."""
    height, width = pack.images.shape[1:]
    wanted = rng.random() < 0.5
    for _ in range(20):
        n = rng.integers(len(pack.images))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        mask = pack.masks[n, y : y + side, x : x + side]
        if not wanted or mask.any():
            break
    return pack.images[n, y : y + side, x : x + side], mask


def _turned(planes: Planes, rng: np.random.Generator) -> Planes:
    turns, flip = rng.integers(4), rng.random() < 0.5
    image, mask = (np.rot90(plane, turns) for plane in planes)
    return (image[:, ::-1], mask[:, ::-1]) if flip else (image, mask)


def _intensity(images: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    number = len(images)
    images = _blurred(images, rng.uniform(0, augmentation.blur))
    gamma = _column([_factor(rng, augmentation.gamma) for _ in range(number)])
    images = images.sign() * images.abs() ** gamma
    contrast = _column([_factor(rng, augmentation.contrast) for _ in range(number)])
    brightness = _column(rng.uniform(-1, 1, number) * augmentation.brightness)
    noise = _column(rng.uniform(0, 1, number) * augmentation.noise)
    grain = torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32))
    return images * contrast + brightness + noise * grain


def _blurred(images: Tensor, sigma: float) -> Tensor:
    if sigma < 0.3:  # such a kernel is a single pixel
        return images
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(images, (3, 3, 3, 3), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 7)), kernel.view(1, 1, 7, 1))


def _factor(rng: np.random.Generator, spread: float) -> float:
    return float((1 + spread) ** rng.uniform(-1, 1))


def _column(values: NDArray[np.float64] | list[float]) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32).view(-1, 1, 1, 1)
