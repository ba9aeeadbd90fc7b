"""Input perturbations: noise, brightness, contrast and gamma on the canonical image.

The **canonical** image is the raw one scaled once a volume so that the low and high percentiles of
the whole target become 0 and 1, not clipped. A strength so means the same for every model, and each
model's own preprocessing follows on the perturbed image (Talks & Kreshuk, arXiv 2503.00450, section
on input perturbations). Since that preprocessing wants raw units, every perturbation is written as
the increment it adds, which `perturb_raw` scales back; at its neutral strength (0 for gaussian and
brightness, 1 for contrast and gamma) the increment is exactly zero.

Everything works on NumPy and CuPy arrays. Arithmetic is float32 (float64 for float64 images).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cte_dask.arrays import Array, namespace
from cte_dask.perturb import Perturbation
from cte_dask.perturb.philox import Key, normal_field
from cte_dask.tiles import Shape

Core = tuple[slice, ...]

__all__ = ["apply", "brightness", "canonical", "contrast", "gamma", "gaussian", "perturb_raw"]

CANONICAL_PERCENTILES = (1.0, 99.8)
"""Percentiles of the whole target that the canonical scale maps to 0 and 1."""


def canonical(raw: Array, *, low: float, high: float) -> Array:
    """Scale raw intensities to the canonical image, ``(raw - low) / (high - low)``.

    Parameters
    ----------
    raw
        Intensities, any shape, real dtype.
    low, high
        The target's low and high percentiles, in raw units.

    Returns
    -------
    ndarray of float32 (float64 for float64 intensities)
        Same shape; not clipped.

    Raises
    ------
    ValueError
        If `high` is not greater than `low`, or one is not finite.
    """
    span = _span(low, high)
    values = _floating(raw)
    scaled: Array = (values - values.dtype.type(low)) / values.dtype.type(span)
    return scaled


def gaussian(image: Array, strength: float, *, key: Key, start: Shape, core: Core) -> Array:
    """Return the increment of x + N(0, θ), θ a standard deviation.

    Parameters
    ----------
    image, strength, key, start, core
        See `cte_dask.perturb.InputPerturbation`; `image` has three axes.

    Returns
    -------
    ndarray
        Of the image's shape and dtype; a voxel's noise depends on `key` and on the voxel's
        coordinate relative to the tile, not on the frame.
    """
    z, y, x = (a + n for a, n in zip(start, image.shape, strict=True))
    noise = normal_field(key, start, (z, y, x), like=image)
    increment: Array = noise.astype(image.dtype, copy=False) * image.dtype.type(strength)
    return increment


def brightness(image: Array, strength: float, *, key: Key, start: Shape, core: Core) -> Array:
    """Return the increment of x + θ.

    Parameters
    ----------
    image, strength, key, start, core
        See `cte_dask.perturb.InputPerturbation`.

    Returns
    -------
    ndarray
        Of the image's shape and dtype, read-only.
    """
    xp = namespace(image)
    increment: Array = xp.broadcast_to(xp.asarray(strength, dtype=image.dtype), image.shape)
    return increment


def contrast(image: Array, strength: float, *, key: Key, start: Shape, core: Core) -> Array:
    """Return the increment of μ + θ (x - μ), μ the mean over the tile's core.

    Parameters
    ----------
    image, strength, key, start, core
        See `cte_dask.perturb.InputPerturbation`.

    Returns
    -------
    ndarray
        Of the image's shape and dtype: (θ - 1)(x - μ). μ is summed in float64 over a contiguous
        copy of the core, so its bits do not depend on the halo around it.
    """
    mean = namespace(image).ascontiguousarray(image[core]).mean(dtype=np.float64)
    scalar = image.dtype.type
    increment: Array = (image - mean.astype(image.dtype)) * scalar(strength - 1.0)
    return increment


def gamma(image: Array, strength: float, *, key: Key, start: Shape, core: Core) -> Array:
    """Return the increment of sign(x)·|x|^θ; plain x^θ is undefined below 0.

    Parameters
    ----------
    image, strength, key, start, core
        See `cte_dask.perturb.InputPerturbation`.

    Returns
    -------
    ndarray
        Of the image's shape and dtype.
    """
    xp = namespace(image)
    if strength == 1:  # a power function need not return x to the last bit
        identity: Array = xp.zeros_like(image)
        return identity
    powers = xp.abs(image) ** image.dtype.type(strength)
    increment: Array = xp.copysign(powers, image) - image
    return increment


def apply(perturbation: Perturbation, image: Array, *, key: Key, start: Shape, core: Core) -> Array:
    """Perturb a canonical image.

    Parameters
    ----------
    perturbation
        One in input space.
    image
        Canonical frame of a tile (z, y, x), floating.
    key
        Philox key of seed, perturbation, repeat and tile.
    start
        First voxel of the frame relative to the tile's first voxel (z, y, x), negative in a halo.
    core
        Slices of the tile within the frame.

    Returns
    -------
    ndarray
        Of the image's shape and dtype; not clipped.

    Raises
    ------
    ValueError
        If the perturbation is not in input space, or its increment has another shape.
    """
    perturbed: Array = image + _increment(perturbation, image, key=key, start=start, core=core)
    return perturbed


def perturb_raw(
    perturbation: Perturbation,
    raw: Array,
    *,
    low: float,
    high: float,
    key: Key,
    start: Shape,
    core: Core,
) -> Array:
    """Perturb a raw image as `apply` perturbs its canonical form.

    Parameters
    ----------
    perturbation
        One in input space.
    raw
        Frame of a tile (z, y, x) in raw units, real dtype.
    low, high
        The target's low and high percentiles, in raw units.
    key, start, core
        As in `apply`.

    Returns
    -------
    ndarray of float32
        ``raw + (high - low) * increment``, the same bits as `raw` at the neutral strength.

    Raises
    ------
    ValueError
        If the perturbation is not in input space, or the percentiles are no interval.
    """
    image = canonical(raw, low=low, high=high)
    increment = _increment(perturbation, image, key=key, start=start, core=core)
    perturbed: Array = _floating(raw) + increment * image.dtype.type(_span(low, high))
    return perturbed.astype(np.float32, copy=False)


def _increment(perturbation: Perturbation, image: Array, **where: Any) -> Array:
    if perturbation.space != "input":
        raise ValueError(f"{perturbation.name!r} perturbs features, not the input image")
    if perturbation.geometric:
        raise ValueError(f"{perturbation.name!r} moves voxels: it has no increment")
    increment: Array = perturbation.load()(image, perturbation.strength, **where)
    if increment.shape != image.shape:
        raise ValueError(
            f"{perturbation.kind!r} gave an increment of shape {increment.shape} "
            f"for an image of shape {image.shape}"
        )
    return increment


def _floating(raw: Array) -> Array:
    return raw if raw.dtype == np.float64 else raw.astype(np.float32, copy=False)


def _span(low: float, high: float) -> float:
    span = high - low
    if not (math.isfinite(span) and span > 0):
        raise ValueError(
            f"percentiles low={low}, high={high} are no interval: the target looks constant; "
            "choose other percentiles or another region"
        )
    return span


for _thing in (gaussian, brightness, contrast, gamma):
    _thing.space = "input"  # type: ignore[attr-defined]
