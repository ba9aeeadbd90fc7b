"""Packs of labelled 2D images: reading, intensity scale, split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

LOW, HIGH = 1, 99.8


@dataclass(frozen=True)
class Pack:
    """Images of one split of a pack.

    Parameters
    ----------
    images
        float32 (n, y, x), each image scaled so that its 1st percentile is 0 and its 99.8th is 1.
    masks
        bool (n, y, x), True in the foreground.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]


def read_pack(path: Path, *, split: str) -> Pack:
    """Read the images of one split ("train" or "test").

    The percentiles are taken per image, not per pack: an image is an acquisition of its own there
    (exposure differs several times within a pack), as a whole target is at inference, where
    ``scale_range`` has the scope "volume". What remains, brightness varying *inside* a target, is
    what the intensity augmentation covers. Colour images are made gray (:func:`gray`).
    """
    with np.load(path) as arrays:
        chosen = arrays["split"] == split
        raw, labels = arrays["raw"][chosen], arrays["label"][chosen]
    images = np.stack([scale_range(image) for image in gray(raw)])
    return Pack(images, labels > 0)


def gray(images: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return colour images (n, y, x, 3) as their inverted mean, whose stained nuclei are bright.

    Images without colours (n, y, x) stay as they are.
    """
    if images.ndim == 3:
        return images
    return (255 - images.astype(np.float32).mean(axis=3)).astype(np.float32)


def rescaled(pack: Pack, factor: float) -> Pack:
    """Return the pack with ``factor`` times the pixels along y and x, smoothed when it shrinks."""
    if factor == 1:
        return pack

    def resized(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        stack = torch.from_numpy(planes)[:, None]
        size = [round(extent * factor) for extent in planes.shape[1:]]
        return F.interpolate(stack, size=size, mode="bilinear", antialias=True)[:, 0].numpy()

    return Pack(resized(pack.images), resized(pack.masks.astype(np.float32)) > 0.5)


def scale_range(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """Scale one image so that its low and high percentile become 0 and 1; nothing is clipped."""
    low, high = np.percentile(image, (LOW, HIGH))
    return ((image.astype(np.float32) - low) / max(high - low, 1e-6)).astype(np.float32)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
