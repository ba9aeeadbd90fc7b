"""What each network is given of a colour fundus image: the inputs that its authors prepared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["equalised_gray", "scaled_colour"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

LUMA = (0.299, 0.587, 0.114)
GAMMA = 1.2
CLIP_LIMIT, GRID = 2.0, 8
LEVELS = 256


def scaled_colour(image: Floats) -> Floats:
    """Return red, green and blue divided by 255.

    Parameters
    ----------
    image
        float32 (channel, y, x), 0 to 255 and, perturbed, beyond.
    """
    return image / np.float32(255)


def equalised_gray(image: Floats) -> Floats:
    """Return a gray image of even contrast, float32 (1, y, x) in [0, 1].

    Luma, scaled to the whole range of bytes, local histograms equalised, a gamma of 1.2. (The
    authors standardise the luma first, which the scaling undoes.)

    Parameters
    ----------
    image
        float32 (channel, y, x).
    """
    luma = np.tensordot(np.array(LUMA), image.astype(np.float64), axes=1)
    span = max(np.ptp(luma), np.finfo(np.float64).tiny)
    gray = ((luma - luma.min()) / span * 255).astype(np.uint8)
    table = ((np.arange(LEVELS) / 255.0) ** (1 / GAMMA) * 255).astype(np.uint8)
    corrected: Floats = table[clahe(gray)].astype(np.float32) / np.float32(255)
    return corrected[None]


def clahe(gray: Bytes) -> Bytes:
    """Equalise local histograms of limited contrast.

    Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV (1994), with
    the roundings of OpenCV's ``createCLAHE(2.0, (8, 8))``, which the networks were trained with.

    Parameters
    ----------
    gray
        uint8 (y, x).
    """
    height, width = gray.shape
    padded = gray
    if height % GRID or width % GRID:
        margins = [(0, GRID - height % GRID), (0, GRID - width % GRID)]
        padded = np.pad(gray, margins, mode="reflect")
    tall, wide = padded.shape[0] // GRID, padded.shape[1] // GRID
    tables = _tables(padded.reshape(GRID, tall, GRID, wide).swapaxes(1, 2), tall * wide)
    (top, low, y), (left, right, x) = _neighbours(height, tall), _neighbours(width, wide)
    y, rows = y[:, None], (top[:, None], low[:, None])
    upper, lower = (
        tables[row, left, gray] * (1 - x) + tables[row, right, gray] * x for row in rows
    )
    return np.clip(np.rint(upper * (1 - y) + lower * y), 0, 255).astype(np.uint8)


def _tables(tiles: Bytes, area: int) -> Floats:
    """Return what each level becomes in each tile, float32 (row, column, level)."""
    limit = max(int(CLIP_LIMIT * area / LEVELS), 1)
    tables = np.empty((GRID, GRID, LEVELS), np.float32)
    for place in np.ndindex(GRID, GRID):
        histogram = _clipped(np.bincount(tiles[place].ravel(), minlength=LEVELS), limit)
        scaled = np.cumsum(histogram).astype(np.float32) * np.float32(255 / area)
        tables[place] = np.clip(np.rint(scaled), 0, 255)
    return tables


def _clipped(histogram: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Cut the counts at a limit and spread what is cut off over all levels."""
    excess = int(np.maximum(histogram - limit, 0).sum())
    each, rest = divmod(excess, LEVELS)
    spread = np.minimum(histogram, limit) + each
    if rest:
        spread[:: max(LEVELS // rest, 1)][:rest] += 1
    return spread


def _neighbours(
    extent: int, tile: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Return the tiles before and after each voxel along an axis, and how far it is between."""
    place = np.arange(extent, dtype=np.float32) * np.float32(1 / tile) - np.float32(0.5)
    first = np.floor(place)
    weight = (place - first).astype(np.float32)
    before = np.maximum(first, 0).astype(np.int64)
    return before, np.minimum(first + 1, GRID - 1).astype(np.int64), weight
