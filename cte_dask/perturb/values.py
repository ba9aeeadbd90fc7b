"""Perturbations of values: noise, brightness, contrast and gamma on the canonical image.

Each is written as the increment it adds (`cte_dask.perturb.canonical`); at its neutral strength (0
for gaussian and brightness, 1 for contrast and gamma) the increment is exactly zero. Everything
works on NumPy and CuPy arrays.
"""

from __future__ import annotations

import numpy as np

from cte_dask.arrays import Array, namespace
from cte_dask.perturb.kinds import Core, ValuePerturbation
from cte_dask.perturb.philox import Key, normal_field
from cte_dask.tiles import Shape

__all__ = ["Brightness", "Contrast", "Gamma", "Gaussian"]


class Gaussian(ValuePerturbation):
    """Noise: x + N(0, θ), θ a standard deviation."""

    accepted = "a standard deviation >= 0"
    meaning = "standard deviation of noise"
    strengths = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
    by_channel = True

    def accepts(self, strength: float) -> bool:
        """Whether it is at least 0."""
        return strength >= 0

    def increment(
        self, image: Array, strength: float, *, key: Key, start: Shape, core: Core
    ) -> Array:
        """Return noise, of three axes: each voxel's depends on `key` and its place in the tile."""
        z, y, x = (a + n for a, n in zip(start, image.shape, strict=True))
        noise = normal_field(key, start, (z, y, x), like=image).astype(image.dtype, copy=False)
        noise *= image.dtype.type(strength)
        return noise


class Brightness(ValuePerturbation):
    """An offset: x + θ."""

    accepted = "a finite offset"
    meaning = "offset"
    strengths = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    random = False

    def increment(
        self, image: Array, strength: float, *, key: Key, start: Shape, core: Core
    ) -> Array:
        """Return θ everywhere, read-only."""
        xp = namespace(image)
        added: Array = xp.broadcast_to(xp.asarray(strength, dtype=image.dtype), image.shape)
        return added


class Contrast(ValuePerturbation):
    """Values drawn towards their mean or away from it: μ + θ (x - μ), μ over the tile's core."""

    accepted = "a factor >= 0"
    meaning = "factor"
    strengths = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    random = False

    def accepts(self, strength: float) -> bool:
        """Whether it is at least 0."""
        return strength >= 0

    def increment(
        self, image: Array, strength: float, *, key: Key, start: Shape, core: Core
    ) -> Array:
        """Return (θ - 1)(x - μ).

        μ is summed in float64 over a contiguous copy of the core, so that its bits do not depend
        on the halo around it.
        """
        mean = namespace(image).ascontiguousarray(image[core]).mean(dtype=np.float64)
        scalar = image.dtype.type
        added: Array = (image - mean.astype(image.dtype)) * scalar(strength - 1.0)
        return added


class Gamma(ValuePerturbation):
    """A power that keeps the sign: sign(x)·|x|^θ; plain x^θ is undefined below 0."""

    accepted = "an exponent > 0"
    meaning = "exponent"
    strengths = (1.1, 1.2, 1.4, 1.6, 2.0, 2.5)
    random = False

    def accepts(self, strength: float) -> bool:
        """Whether it is above 0."""
        return strength > 0

    def increment(
        self, image: Array, strength: float, *, key: Key, start: Shape, core: Core
    ) -> Array:
        """Return sign(x)·|x|^θ - x."""
        xp = namespace(image)
        if strength == 1:  # a power function need not return x to the last bit
            identity: Array = xp.zeros_like(image)
            return identity
        powers = xp.abs(image) ** image.dtype.type(strength)
        added: Array = xp.copysign(powers, image) - image
        return added
