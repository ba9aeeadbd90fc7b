"""Preprocessing steps as data, in BioImage.IO's vocabulary.

Names, parameters and formulas follow the BioImage.IO model description 0.5
(https://bioimage.io/docs); :mod:`cte_dask.models.preprocessing` computes them.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from cte_dask.models.yaml import Strict
from cte_dask.registry import unknown

__all__ = [
    "PARAMETERS",
    "Clip",
    "EnsureDtype",
    "FixedZeroMeanUnitVariance",
    "ScaleLinear",
    "ScaleRange",
    "Step",
    "ZeroMeanUnitVariance",
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
