"""Preprocessing: the steps that a bank may name, and how they turn intensities into an input.

Names, parameters and formulas follow the BioImage.IO model description 0.5
(https://bioimage.io/docs). Most steps are affine once their statistics are known. Consecutive
affine steps fold, in float64, into one gain and offset, which is applied once in float32. A step
needs the statistics of what the step before it returns: those of the raw target, or of the array
for scope ``tile``, are carried through the earlier steps by arithmetic, without applying these to
the array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue, field_validator, model_validator

from cte_dask.arrays import Array, namespace
from cte_dask.models.yaml import Strict
from cte_dask.registry import unknown

__all__ = [
    "PARAMETERS",
    "Clip",
    "EnsureDtype",
    "FixedZeroMeanUnitVariance",
    "ScaleLinear",
    "ScaleRange",
    "Statistics",
    "Step",
    "ZeroMeanUnitVariance",
    "preprocess",
    "required_percentiles",
]

Eps = Field(default=1e-6, gt=0, le=0.1)


class ScaleRange(Strict):
    """``(x − low) / (high − low + eps)`` between two percentiles.

    Parameters
    ----------
    min_percentile, max_percentile
        Percentiles, 0 to 100, that become 0 and 1.
    eps
        Keeps the divisor away from zero.
    """

    min_percentile: float = Field(default=0.0, ge=0, le=100)
    max_percentile: float = Field(default=100.0, ge=0, le=100)
    eps: float = Eps

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_percentile >= self.max_percentile:
            raise ValueError(
                f"min_percentile {self.min_percentile:g} must be below "
                f"max_percentile {self.max_percentile:g}"
            )
        return self


class ZeroMeanUnitVariance(Strict):
    """``(x − mean) / (std + eps)``.

    Parameters
    ----------
    eps
        Keeps the divisor away from zero.
    """

    eps: float = Eps


class FixedZeroMeanUnitVariance(Strict):
    """``(x − mean) / std`` with fixed numbers.

    Parameters
    ----------
    mean, std
        Mean and standard deviation in the units of the step before; raw units for the first.
    """

    mean: float
    std: float = Field(gt=0)


class ScaleLinear(Strict):
    """``gain · x + offset``.

    Parameters
    ----------
    gain, offset
        Factor and summand, the same for every voxel.
    """

    gain: float = 1.0
    offset: float = 0.0


class Clip(Strict):
    """``min(max(x, min), max)``; one bound may be left out.

    Parameters
    ----------
    min, max
        The bounds.
    """

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("clip needs min, max or both")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"min {self.min:g} must be below max {self.max:g}")
        return self


class EnsureDtype(Strict):
    """Values within the range of a type; for an integer type they are rounded and saturate.

    Parameters
    ----------
    dtype
        Name of the type.
    """

    dtype: Literal["float32", "float64", "uint8", "uint16", "uint32", "int8", "int16", "int32"]


Parameters = (
    ScaleRange | ZeroMeanUnitVariance | FixedZeroMeanUnitVariance | ScaleLinear | Clip | EnsureDtype
)

PARAMETERS: dict[str, type[Parameters]] = {
    "scale_range": ScaleRange,
    "zero_mean_unit_variance": ZeroMeanUnitVariance,
    "fixed_zero_mean_unit_variance": FixedZeroMeanUnitVariance,
    "scale_linear": ScaleLinear,
    "clip": Clip,
    "ensure_dtype": EnsureDtype,
}


class Step(Strict):
    """One preprocessing step.

    Parameters
    ----------
    name
        A key of :data:`PARAMETERS`.
    kwargs
        The step's parameters; those left out are filled in, so equal steps compare equal.
    scope
        Source of percentiles, mean and standard deviation: the whole target (``"volume"``) or the
        array at hand (``"tile"``). Steps with fixed numbers ignore it.

    Raises
    ------
    ValueError
        If a name or parameter is unknown; the message names the nearest one.
    """

    name: str
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    scope: Literal["volume", "tile"] = "volume"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in PARAMETERS:
            raise ValueError(unknown("preprocessing step", name, PARAMETERS))
        return name

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name") not in PARAMETERS:
            return data
        # defaults are written out here, so that they enter comparisons and the digest
        parameters = PARAMETERS[data["name"]].model_validate(data.get("kwargs") or {})
        return {**data, "kwargs": parameters.model_dump()}

    @property
    def bends(self) -> bool:
        """Whether the step is not affine, so that the mean after it is unknown."""
        parameters = self.parameters
        return isinstance(parameters, Clip) or (
            isinstance(parameters, EnsureDtype) and "int" in parameters.dtype
        )

    @property
    def parameters(self) -> Parameters:
        """The validated parameters, as the class of this step."""
        return PARAMETERS[self.name].model_validate(self.kwargs)


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
    """The map x -> gain · x + offset."""

    gain: float = 1.0
    offset: float = 0.0

    def then(self, after: _Affine) -> _Affine:
        """Return the map that applies this one first, then `after`."""
        return _Affine(after.gain * self.gain, after.gain * self.offset + after.offset)

    def __call__(self, value: float) -> float:
        return self.gain * value + self.offset


@dataclass(frozen=True, slots=True)
class _Transformed:
    """Statistics of `source` after the steps in `passed`."""

    source: Statistics
    passed: tuple[_Affine | Clip | EnsureDtype, ...] = ()

    def after(self, step: _Affine | Clip | EnsureDtype) -> _Transformed:
        return _Transformed(self.source, (*self.passed, step))

    def percentile(self, q: float) -> float:
        # a negative gain turns the order around: the 1st percentile becomes the 99th
        mirrored = math.prod(s.gain for s in self.passed if isinstance(s, _Affine)) < 0
        value = float(self.source.percentile(100.0 - q if mirrored else q))
        for step in self.passed:
            value = step(value) if isinstance(step, _Affine) else float(_bend(value, step))
        return value

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation; raise if a step in `passed` is not affine."""
        affine = _Affine()
        for step in self.passed:
            if not isinstance(step, _Affine):
                raise TypeError(f"the mean after {type(step).__name__} is not known")
            affine = affine.then(step)
        return affine(float(self.source.mean)), abs(affine.gain) * float(self.source.std)


@dataclass(frozen=True, slots=True)
class _ArrayStatistics:
    """The statistics of one array, computed on access."""

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
        Raw intensities of any shape and real dtype, NumPy or CuPy; a perturbation may have turned
        integers into floats.
    steps
        The steps in order.
    statistics
        Statistics of the whole target in raw units; only steps of scope volume need them.

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
    Formulas of the BioImage.IO model description 0.5; see :class:`Step`. In contrast
    to a cast, ``ensure_dtype`` to integers rounds and saturates, so that an integer that became
    4.9999996 on its way stays 5.
    """
    if x.size == 0:
        raise ValueError(f"nothing to preprocess: the array has shape {x.shape}")
    # of the target, up to the last clip or cast; `pending` holds the affine steps since then
    of_target = None if statistics is None else _Transformed(statistics)
    pending = _Affine()
    for step in steps:
        parameters = step.parameters
        if isinstance(parameters, EnsureDtype) and not step.bends:
            continue  # everything is computed in floating point as it is
        if isinstance(parameters, Clip | EnsureDtype):
            if of_target is not None:
                of_target = of_target.after(pending).after(parameters)
            x, pending = _bend(_apply(x, pending), parameters), _Affine()
        else:
            of_input = _Transformed(_ArrayStatistics(x)) if step.scope == "tile" else of_target
            of_input = None if of_input is None else of_input.after(pending)
            pending = pending.then(_affine(parameters, of_input))
    return _apply(x, pending)


def required_percentiles(steps: Sequence[Step], *, invert: bool = False) -> set[float]:
    """Return the percentiles of the whole target that steps need, or if it is inverted first."""
    percentiles: set[float] = set()
    gain = -1.0 if invert else 1.0
    for step in steps:
        parameters = step.parameters
        if isinstance(parameters, ScaleRange) and step.scope == "volume":
            ends = {parameters.min_percentile, parameters.max_percentile}
            # see `_Transformed.percentile`
            percentiles |= ends if gain >= 0 else {100.0 - q for q in ends}
        if isinstance(parameters, ScaleLinear):
            gain *= parameters.gain
    return percentiles


def _affine(parameters: Parameters, statistics: _Transformed | None) -> _Affine:
    """Return the gain and offset of an affine step, given the statistics of its input."""
    if isinstance(parameters, ScaleLinear):
        return _Affine(parameters.gain, parameters.offset)
    if isinstance(parameters, FixedZeroMeanUnitVariance):
        return _centred(parameters.mean, parameters.std)
    if statistics is None:
        raise ValueError("a preprocessing step of scope volume needs the target's statistics")
    if isinstance(parameters, ScaleRange):
        low = _finite(statistics.percentile(parameters.min_percentile))
        high = _finite(statistics.percentile(parameters.max_percentile))
        return _centred(low, high - low + parameters.eps)
    if isinstance(parameters, ZeroMeanUnitVariance):
        mean, std = statistics.moments()
        return _centred(_finite(mean), _finite(std) + parameters.eps)
    raise TypeError(f"{type(parameters).__name__} is no affine step")


def _centred(centre: float, width: float) -> _Affine:
    return _Affine(1.0 / width, -centre / width)


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise ValueError(f"preprocessing needs finite statistics, got {value}: is the data NaN?")
    return value


def _apply(x: Array, affine: _Affine) -> npt.NDArray[np.float32]:
    # a copy even of float32, which the two operations then change in place
    result: npt.NDArray[np.float32] = x.astype(np.float32)
    if affine.gain != 1.0:
        result *= np.float32(affine.gain)
    if affine.offset != 0.0:
        result += np.float32(affine.offset)
    return result


def _bend(x: Any, step: Clip | EnsureDtype) -> Any:
    """Apply a step that is not affine to an array or a number; keep its floating type."""
    xp = np if isinstance(x, float) else namespace(x)
    if isinstance(step, Clip):
        return xp.clip(x, step.min, step.max)
    limits = np.iinfo(step.dtype)
    return xp.clip(xp.rint(x), limits.min, limits.max)
