"""Preprocessing: the steps that a bank may name, and which of them can follow one another.

Names, parameters and formulas follow the BioImage.IO model description 0.5
(https://bioimage.io/docs); ``channel_wise`` is MONAI's word for what the description says with the
axes of a step. How steps are applied is in `cte_dask.inference.preprocess`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

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
    "check_steps",
    "required_percentiles",
    "tells_channels_apart",
]

Eps = Field(default=1e-6, gt=0, le=0.1)
Positive = Annotated[float, Field(gt=0)]


def _kind(value: object) -> str:
    return "each" if isinstance(value, list | tuple) else "all"


# one number for all channels, or one for each: an error names the kind that was given
Numbers = Annotated[
    Annotated[float, Tag("all")] | Annotated[tuple[float, ...], Field(min_length=1), Tag("each")],
    Discriminator(_kind),
]
Positives = Annotated[
    Annotated[Positive, Tag("all")]
    | Annotated[tuple[Positive, ...], Field(min_length=1), Tag("each")],
    Discriminator(_kind),
]


class ScaleRange(Strict):
    """``(x − low) / (high − low + eps)`` between two percentiles.

    Parameters
    ----------
    min_percentile, max_percentile
        Percentiles, 0 to 100, that become 0 and 1.
    eps
        Keeps the divisor away from zero.
    channel_wise
        Whether each channel has percentiles of its own; else those of all voxels of all channels.
    """

    min_percentile: float = Field(default=0.0, ge=0, le=100)
    max_percentile: float = Field(default=100.0, ge=0, le=100)
    eps: float = Eps
    channel_wise: StrictBool = True

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
    channel_wise
        Whether each channel has a mean and deviation of its own; else those of all voxels of all
        channels.
    """

    eps: float = Eps
    channel_wise: StrictBool = True


class FixedZeroMeanUnitVariance(Strict):
    """``(x − mean) / std`` with fixed numbers.

    Parameters
    ----------
    mean, std
        Mean and standard deviation in the units of the step before; raw units for the first. Each
        is one number, or a list of one for each channel of the network's input.
    """

    mean: Numbers
    std: Positives


class ScaleLinear(Strict):
    """``gain · x + offset``.

    Parameters
    ----------
    gain, offset
        Factor and summand. Each is one number, or a list of one for each channel of the network's
        input.
    """

    gain: Numbers = 1.0
    offset: Numbers = 0.0


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


_EACH = ("channel_wise", True)


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
    channel
        The only channel of the network's input that the step changes, from 0; by default all.

    Raises
    ------
    ValueError
        If a name or parameter is unknown; the message names the nearest one.
    """

    name: str
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    scope: Literal["volume", "tile"] = "volume"
    channel: StrictInt | None = Field(default=None, ge=0)

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
        kwargs = parameters.model_dump(mode="json")
        # what says nothing is not written: the digest is that of before there was the key
        return {**data, "kwargs": {k: v for k, v in kwargs.items() if (k, v) != _EACH}}

    @model_validator(mode="after")
    def _of_one_channel(self) -> Self:
        if self.channel is not None and (self.joint or self.lists):
            raise ValueError(
                f"{self.name} of channel {self.channel} alone takes one number each, and no "
                "channel_wise: false"
            )
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {k: v for k, v in data.items() if (k, v) != ("channel", None)}

    @property
    def bends(self) -> bool:
        """Whether the step is not affine, so that the mean after it is unknown."""
        parameters = self.parameters
        return isinstance(parameters, Clip) or (
            isinstance(parameters, EnsureDtype) and "int" in parameters.dtype
        )

    @property
    def joint(self) -> bool:
        """Whether its statistics are those of all channels together."""
        return self.kwargs.get("channel_wise") is False

    @property
    def lists(self) -> dict[str, int]:
        """How many numbers the parameters have that have one for each channel."""
        return {k: len(v) for k, v in self.kwargs.items() if isinstance(v, list)}

    @property
    def parameters(self) -> Parameters:
        """The validated parameters, as the class of this step."""
        return PARAMETERS[self.name].model_validate(self.kwargs)


def tells_channels_apart(steps: Sequence[Step]) -> bool:
    """Return whether equal channels of a network's input may be unequal after some steps."""
    return any(step.channel is not None or step.lists for step in steps)


def required_percentiles(steps: Sequence[Step], *, invert: bool = False) -> set[float]:
    """Return the percentiles of the whole target that steps need, or if it is inverted first."""
    percentiles: set[float] = set()
    signs = {-1 if invert else 1}  # of the gain so far, in one channel or another
    for step in steps:
        parameters = step.parameters
        if isinstance(parameters, ScaleRange) and step.scope == "volume":
            ends = {parameters.min_percentile, parameters.max_percentile}
            # a negative gain turns the order around: the 1st percentile becomes the 99th
            percentiles |= ends if signs - {-1} else set()
            percentiles |= {100.0 - q for q in ends} if -1 in signs else set()
        if isinstance(parameters, ScaleLinear):
            factors = parameters.gain if isinstance(parameters.gain, tuple) else (parameters.gain,)
            others = signs if step.channel is not None else set()
            signs = {s * ((f > 0) - (f < 0)) for s in signs for f in factors} | others
    return percentiles


def check_steps(steps: Sequence[Step], *, inputs: int | None, seen: int) -> None:
    """Refuse steps that cannot follow one another, or do not fit the channels of a network.

    Parameters
    ----------
    steps
        The steps in order.
    inputs
        Channels of the network's input; None if they are not known yet.
    seen
        Channels of the target that it sees.

    Raises
    ------
    ValueError
        With the step and the remedy.
    """
    bent: list[Step] = []
    for step in steps:
        if inputs is not None:
            _check_inputs(step, inputs)
        _check_joint(step, seen)
        # after a step that is not affine the volume's mean cannot be told from the raw mean
        of_volume = step.name == "zero_mean_unit_variance" and step.scope == "volume"
        if of_volume and any(_meet(step, earlier) for earlier in bent):
            raise ValueError(
                "zero_mean_unit_variance of scope volume cannot follow clip or an integer type, "
                "the volume's mean after it is not known: put it before or use scope: tile"
            )
        bent += [step] if step.bends else []


def _meet(step: Step, other: Step) -> bool:
    return None in (step.channel, other.channel) or step.channel == other.channel


def _check_inputs(step: Step, inputs: int) -> None:
    takes = f"the network takes {inputs} channel{'' if inputs == 1 else 's'}"
    for key, count in step.lists.items():
        if count != inputs:
            raise ValueError(
                f"{key} of {step.name} has {count} numbers, {takes}: give one for each, or say "
                f"in_channels: {count}"
            )
    if step.channel is not None and step.channel >= inputs:
        raise ValueError(f"{step.name} of channel {step.channel}: {takes}, counted from 0")


def _check_joint(step: Step, seen: int) -> None:
    """Refuse percentiles of several channels that those of each do not tell."""
    parameters = step.parameters
    if not (isinstance(parameters, ScaleRange) and step.joint and step.scope == "volume"):
        return
    ends = (parameters.min_percentile, parameters.max_percentile)
    if seen > 1 and ends != (0, 100):
        raise ValueError(
            f"scale_range with channel_wise: false from percentile {ends[0]:g} to {ends[1]:g} of "
            f"the whole target: those of {seen} channels together do not follow from those of "
            "each; use scope: tile, channel_wise: true, or percentiles 0 and 100"
        )
