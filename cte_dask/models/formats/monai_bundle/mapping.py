"""Translates the transforms of a MONAI bundle into the vocabulary of a bank. No torch, no MONAI.

Formulas are those of ``monai.transforms.intensity`` 1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cte_dask.models.network import ModelError

__all__ = ["Transform", "image_transforms", "output_of", "steps_of", "voxel_size_of"]

# MONAI divides by a range or deviation as it is
_EPS = 1e-10
_MEASURED = ("scale_range", "zero_mean_unit_variance")
_INPUT_REMEDY = "say in the bank's preprocessing what is to happen"
_OUTPUT_REMEDY = "say in the bank's output what its activation is"

# what an image passes unchanged, or what tiles do in its place
_INERT = frozenset(
    {"AsChannelFirst", "AddChannel", "CopyItems", "DeleteItems", "DivisiblePad"}
    | {"EnsureChannelFirst", "EnsureType", "Identity", "Invert", "LoadImage", "Orientation"}
    | {"SaveImage", "SelectItems", "Spacing", "SpatialPad", "ToDevice", "ToTensor"}
)


class Plain(Protocol):
    """Replaces the references in a value of the configuration."""

    def __call__(self, value: Any, where: str, /) -> Any:
        """Return the plain value; raise a ValueError for an expression."""
        ...


@dataclass(frozen=True, slots=True)
class Transform:
    """One transform of a section.

    Parameters
    ----------
    name
        Its class without module, and without the ``d`` of those that take a dictionary.
    section
        Its arguments, as they stand there.
    plain
        Replaces references.
    """

    name: str
    section: Mapping[str, Any]
    plain: Plain

    def get(self, key: str, default: Any = None) -> Any:
        """Return an argument; raise a ValueError if it is an expression."""
        return self.plain(self.section.get(key, default), f"{key} of {self.name}")

    def number(self, key: str, default: float | None = None) -> float:
        """Return an argument that must be a number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{key} of {self.name} is {value!r}, no number: {_INPUT_REMEDY}")
        return float(value)


def image_transforms(section: Any, key: str, plain: Plain) -> list[Transform]:
    """Return the transforms of a section that act on one of its arrays.

    Parameters
    ----------
    section
        A ``Compose``, or a list of transforms; None for none.
    key
        The array, ``image`` or ``pred``.
    plain
        Replaces references.

    Raises
    ------
    ValueError
        If the section would have to be evaluated.
    """
    if isinstance(section, Mapping) and _base(section.get("_target_")) == "Compose":
        section = section.get("transforms")
    if section is None:
        return []
    if not isinstance(section, list) or not all(isinstance(s, Mapping) for s in section):
        remedy = _INPUT_REMEDY if key == "image" else _OUTPUT_REMEDY
        raise ValueError(f"the transforms of {key} are no plain list: {remedy}")
    transforms = [Transform(_base(s.get("_target_")), s, plain) for s in section]
    return [t for t in transforms if _acts_on(t, key) and not t.get("_disabled_", False)]


def _base(target: Any) -> str:
    """Return a transform's class without its module; ``ScaleIntensityd`` as ``ScaleIntensity``."""
    name = str(target).rpartition(".")[2]
    for suffix in ("Dict", "D", "d"):
        if name.removesuffix(suffix) in _KNOWN:
            return name.removesuffix(suffix)
    return name


def _acts_on(transform: Transform, key: str) -> bool:
    if "keys" not in transform.section:  # one of arrays, not of dictionaries
        return True
    keys = transform.get("keys")
    return key in ([keys] if isinstance(keys, str) else keys)


def steps_of(transforms: Sequence[Transform], channels: int) -> list[dict[str, Any]]:
    """Return the preprocessing of an image as the steps of a bank.

    Statistics of an image become those of the whole target, of all its channels together unless a
    transform is ``channel_wise``.

    Parameters
    ----------
    transforms
        Those of the image.
    channels
        Channels of the image.

    Raises
    ------
    ValueError
        If a transform has no counterpart.
    """
    return [step for transform in transforms for step in _steps(transform, channels)]


def _steps(transform: Transform, channels: int) -> list[dict[str, Any]]:
    if transform.name in _INERT:
        return []
    if transform.name == "CastToType" and "float" in str(transform.section.get("dtype", "float")):
        return []
    if transform.name not in _STEPS:
        raise ValueError(f"the transform {transform.name} has no counterpart here: {_INPUT_REMEDY}")
    steps = _STEPS[transform.name](transform)
    if channels > 1 and not transform.get("channel_wise", False):
        for step in steps:
            if step["name"] in _MEASURED:
                step["kwargs"]["channel_wise"] = False
    return steps


def _scale_intensity(transform: Transform) -> list[dict[str, Any]]:
    if transform.get("minv", 0.0) is None and transform.get("maxv", 1.0) is None:
        return [_linear(1.0 + transform.number("factor"), 0.0)]
    low, high = transform.number("minv", 0.0), transform.number("maxv", 1.0)
    return [_range(0.0, 100.0), *_onto(low, high)]


def _scale_range(transform: Transform) -> list[dict[str, Any]]:
    first, last = transform.number("a_min"), transform.number("a_max")
    if first == last:
        raise ValueError(f"a_min and a_max of {transform.name} are equal: {_INPUT_REMEDY}")
    low, high = _ends(transform)
    gain = (high - low) / (last - first)
    return [_linear(gain, low - gain * first), *_clip(transform, low, high)]


def _percentiles(transform: Transform) -> list[dict[str, Any]]:
    lower, upper = transform.number("lower"), transform.number("upper")
    low, high = _ends(transform)
    if transform.get("relative", False):
        low, high = (low + (high - low) * percent / 100 for percent in (lower, upper))
    return [_range(lower, upper), *_onto(low, high), *_clip(transform, low, high)]


def _normalize(transform: Transform) -> list[dict[str, Any]]:
    if transform.get("nonzero", False):
        raise ValueError(f"{transform.name} of voxels above 0 has no counterpart: {_INPUT_REMEDY}")
    mean, std = (transform.get(key) for key in ("subtrahend", "divisor"))
    if mean is None and std is None:
        kwargs: dict[str, Any] = {"eps": _EPS}
        return [{"name": "zero_mean_unit_variance", "kwargs": kwargs}]
    if mean is None or std is None:
        raise ValueError(
            f"{transform.name} with one of subtrahend, divisor has no counterpart here: "
            f"{_INPUT_REMEDY}"
        )
    kwargs = {"mean": _numbers(transform, mean), "std": _numbers(transform, std)}
    return [{"name": "fixed_zero_mean_unit_variance", "kwargs": kwargs}]


def _shift(transform: Transform) -> list[dict[str, Any]]:
    return [_linear(1.0, transform.number("offset"))]


_STEPS: dict[str, Callable[[Transform], list[dict[str, Any]]]] = {
    "ScaleIntensity": _scale_intensity,
    "ScaleIntensityRange": _scale_range,
    "ScaleIntensityRangePercentiles": _percentiles,
    "NormalizeIntensity": _normalize,
    "ShiftIntensity": _shift,
}
_KNOWN = {*_STEPS, *_INERT, "Activations", "AsDiscrete", "CastToType", "Compose"}


def _ends(transform: Transform) -> tuple[float, float]:
    """Return what the range becomes; MONAI leaves it at [0, 1] without both numbers."""
    if transform.get("b_min") is None and transform.get("b_max") is None:
        return 0.0, 1.0
    return transform.number("b_min"), transform.number("b_max")


def _numbers(transform: Transform, value: Any) -> float | list[float]:
    """Return one number; a list for each channel only where they differ."""
    values = [float(v) for v in (value if isinstance(value, list) else [value])]
    if len(set(values)) == 1:
        return values[0]
    if not transform.get("channel_wise", False):
        raise ValueError(
            f"{transform.name} with another number for each channel is not channel_wise: "
            f"{_INPUT_REMEDY}"
        )
    return values


def _range(low: float, high: float) -> dict[str, Any]:
    kwargs = {"min_percentile": low, "max_percentile": high, "eps": _EPS}
    return {"name": "scale_range", "kwargs": kwargs}


def _linear(gain: float, offset: float) -> dict[str, Any]:
    return {"name": "scale_linear", "kwargs": {"gain": gain, "offset": offset}}


def _onto(low: float, high: float) -> list[dict[str, Any]]:
    """Return the step from [0, 1] to [low, high]."""
    return [] if (low, high) == (0.0, 1.0) else [_linear(high - low, low)]


def _clip(transform: Transform, low: float, high: float) -> list[dict[str, Any]]:
    # without ends of its own MONAI's clip has no bounds
    if not transform.get("clip", False) or transform.get("b_min") is None:
        return []
    return [{"name": "clip", "kwargs": {"min": low, "max": high}}]


def voxel_size_of(transforms: Sequence[Transform], order: Sequence[int]) -> dict[str, Any] | None:
    """Return the voxel size, in millimetre, that a bundle resamples to; None if to none.

    Parameters
    ----------
    transforms
        Those of the image.
    order
        For each spatial axis of the network, its position among ours.
    """
    spacings = [t.get("pixdim") for t in transforms if t.name == "Spacing"]
    if not spacings:
        return None
    size = spacings[-1] if isinstance(spacings[-1], list) else [spacings[-1]] * len(order)
    # a negative number keeps the size that the image has
    if len(size) < len(order) or any(edge is None or edge <= 0 for edge in size):
        return None
    axes = "zyx"[3 - len(order) :]
    return {"unit": "millimeter"} | {axes[o]: size[i] for i, o in enumerate(order)}


def output_of(transforms: Sequence[Transform], channels: int | None) -> dict[str, Any]:
    """Return how the output becomes a foreground probability, as the keys of ``output``.

    Parameters
    ----------
    transforms
        Those of the prediction.
    channels
        Channels of the prediction, None if not known.

    Raises
    ------
    ValueError
        If a bank cannot express them, or there are none that tell.
    """
    for transform in transforms:
        if transform.name not in {*_INERT, "Activations", "AsDiscrete", "CastToType"}:
            raise ValueError(
                f"the postprocessing {transform.name} has no counterpart here: {_OUTPUT_REMEDY}"
            )
    telling = [t for t in transforms if t.name in ("Activations", "AsDiscrete")]

    def asked(key: str) -> bool:
        return any(t.get(key, False) is True for t in telling)

    if any(t.get("other") is not None for t in telling) or not telling:
        raise ValueError(f"the postprocessing tells no activation: {_OUTPUT_REMEDY}")
    if asked("softmax") or asked("argmax"):
        return {"activation": "softmax", **_classes(channels)}
    thresholds = [t.get("threshold") for t in telling if t.get("threshold") is not None]
    threshold = {"threshold": thresholds[-1]} if thresholds else {}
    return {"activation": "sigmoid" if asked("sigmoid") else "none", **threshold}


def _classes(channels: int | None) -> dict[str, Any]:
    if channels is None or channels < 2:
        raise ValueError(f"a softmax of {channels or 'unknown'} channels: {_OUTPUT_REMEDY}")
    return {"channel": 1} if channels == 2 else {"classes": list(range(1, channels))}
