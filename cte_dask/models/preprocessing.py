"""From raw intensities to what a network expects, in one pass over the array where possible.

Most steps are affine once their statistics are known. Consecutive affine steps are folded, in
float64, into one gain and offset that are applied once in float32. Statistics of the whole target
are given in raw units and pushed through the steps before; statistics of the tile are taken from
the array and pushed the same way, so that both scopes fold alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array, namespace
from cte_dask.models.spec import ModelSpec
from cte_dask.models.steps import (
    Clip,
    EnsureDtype,
    FixedZeroMeanUnitVariance,
    Parameters,
    ScaleLinear,
    ScaleRange,
    Step,
    ZeroMeanUnitVariance,
)

__all__ = ["Statistics", "preprocess", "required_percentiles"]


class Statistics(Protocol):
    """Intensities of the whole target, in raw units."""

    @property
    def mean(self) -> float:
        """Mean intensity."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation of the intensities."""
        ...

    def percentile(self, q: float, /) -> float:
        """Return the q-th percentile, q in [0, 100]."""
        ...


@dataclass(frozen=True, slots=True)
class _Affine:
    """``gain · x + offset``; `then` composes two."""

    gain: float = 1.0
    offset: float = 0.0

    def then(self, after: _Affine) -> _Affine:
        return _Affine(after.gain * self.gain, after.gain * self.offset + after.offset)

    def __call__(self, value: float) -> float:
        return self.gain * value + self.offset


@dataclass(frozen=True, slots=True)
class _Seen:
    """Statistics as the next step sees them: `source`, then everything in `passed`."""

    source: Statistics
    passed: tuple[_Affine | Clip | EnsureDtype, ...] = ()

    def after(self, step: _Affine | Clip | EnsureDtype) -> _Seen:
        return _Seen(self.source, (*self.passed, step))

    def percentile(self, q: float) -> float:
        mirrored = math.prod(s.gain for s in self.passed if isinstance(s, _Affine)) < 0
        value = float(self.source.percentile(100.0 - q if mirrored else q))
        for step in self.passed:
            value = step(value) if isinstance(step, _Affine) else float(_bend(value, step))
        return value

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation; known only as long as every step was affine."""
        affine = _Affine()
        for step in self.passed:
            if not isinstance(step, _Affine):
                raise TypeError(f"the mean after {type(step).__name__} is not known")
            affine = affine.then(step)
        return affine(float(self.source.mean)), abs(affine.gain) * float(self.source.std)


@dataclass(frozen=True, slots=True)
class _OfArray:
    """The statistics of one array, computed when asked for."""

    x: Array

    @property
    def mean(self) -> float:
        return float(self.x.mean(dtype=np.float64))

    @property
    def std(self) -> float:
        return float(self.x.std(dtype=np.float64))

    def percentile(self, q: float) -> float:
        return float(namespace(self.x).percentile(self.x, q))


def preprocess(
    x: Array, steps: Sequence[Step], statistics: Statistics | None
) -> npt.NDArray[np.float32]:
    """Apply preprocessing steps to raw intensities.

    Parameters
    ----------
    x
        Raw intensities of any shape and real dtype, NumPy or CuPy; integers may have become floats
        by a perturbation.
    steps
        The steps in order.
    statistics
        Of the whole target in raw units; needed only for steps of scope volume.

    Returns
    -------
    ndarray of float32, the shape of `x`
        A new array in the library of `x`.

    Raises
    ------
    ValueError
        If a step of scope volume gets no statistics or not finite ones, or the array is empty.

    Notes
    -----
    Formulas of the BioImage.IO model description 0.5; see :mod:`cte_dask.models.steps`. In contrast
    to a cast, ``ensure_dtype`` to integers rounds and saturates, so that an integer that became
    4.9999996 on its way stays 5.
    """
    if x.size == 0:
        raise ValueError(f"nothing to preprocess: the array has shape {x.shape}")
    whole = None if statistics is None else _Seen(statistics)
    pending = _Affine()
    for step in steps:
        parameters = step.parameters
        if isinstance(parameters, EnsureDtype) and not step.bends:
            continue  # everything is computed in floating point as it is
        if isinstance(parameters, Clip | EnsureDtype):
            if whole is not None:
                whole = whole.after(pending).after(parameters)
            x, pending = _bend(_apply(x, pending), parameters), _Affine()
        else:
            seen = _Seen(_OfArray(x)) if step.scope == "tile" else whole
            seen = None if seen is None else seen.after(pending)
            pending = pending.then(_affine(parameters, seen))
    return _apply(x, pending)


def required_percentiles(spec: ModelSpec) -> set[float]:
    """Return the percentiles of the whole target that a model's preprocessing asks for."""
    wanted: set[float] = set()
    gain = 1.0
    for step in spec.preprocessing:
        parameters = step.parameters
        if isinstance(parameters, ScaleRange) and step.scope == "volume":
            ends = {parameters.min_percentile, parameters.max_percentile}
            wanted |= ends if gain >= 0 else {100.0 - q for q in ends}
        if isinstance(parameters, ScaleLinear):
            gain *= parameters.gain
    return wanted


def _affine(parameters: Parameters, seen: _Seen | None) -> _Affine:
    """Return the gain and offset of a step that has them, from the statistics it sees."""
    if isinstance(parameters, ScaleLinear):
        return _Affine(parameters.gain, parameters.offset)
    if isinstance(parameters, FixedZeroMeanUnitVariance):
        return _centred(parameters.mean, parameters.std)
    if seen is None:
        raise ValueError("a preprocessing step of scope volume needs the target's statistics")
    if isinstance(parameters, ScaleRange):
        low = _finite(seen.percentile(parameters.min_percentile))
        high = _finite(seen.percentile(parameters.max_percentile))
        return _centred(low, high - low + parameters.eps)
    if isinstance(parameters, ZeroMeanUnitVariance):
        mean, std = seen.moments()
        return _centred(_finite(mean), _finite(std) + parameters.eps)
    raise TypeError(f"{type(parameters).__name__} is no affine step")


def _centred(centre: float, width: float) -> _Affine:
    return _Affine(1.0 / width, -centre / width)


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise ValueError(f"preprocessing needs finite statistics, got {value}: is the data NaN?")
    return value


def _apply(x: Array, affine: _Affine) -> npt.NDArray[np.float32]:
    result: npt.NDArray[np.float32] = x.astype(np.float32)
    if affine.gain != 1.0:
        result *= np.float32(affine.gain)
    if affine.offset != 0.0:
        result += np.float32(affine.offset)
    return result


def _bend(x: Any, step: Clip | EnsureDtype) -> Any:
    """Apply a step that is not affine to an array or a number, staying in its floating type."""
    xp = np if isinstance(x, float) else namespace(x)
    if isinstance(step, Clip):
        return xp.clip(x, step.min, step.max)
    limits = np.iinfo(step.dtype)
    return xp.clip(xp.rint(x), limits.min, limits.max)
