"""Reads ``plans.json`` and ``dataset.json`` of a trained nnU-Net v2. No torch, no nnU-Net."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cte_dask.models.network import ModelError
from cte_dask.models.package import Package

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["Plans", "described_entry", "read_plans"]

_REMEDY = "say in the bank's preprocessing what is to happen"
_EPS = 1e-8
_IN_MILLIMETRES = re.compile(r"(SimpleITK|Nibabel)IO.*")
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Plans:
    """One configuration of a trained model.

    Parameters
    ----------
    package
        Its files.
    root
        What stands before ``plans.json`` and ``fold_0/`` in their names: empty or a folder.
    plans, dataset
        ``plans.json`` and ``dataset.json``.
    name
        The configuration, such as ``3d_fullres``.
    configuration
        What the plans say of it, with what it inherits.
    """

    package: Package
    root: str
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    name: str
    configuration: Mapping[str, Any]

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Extents that the network was trained on, in our order."""
        size = self.configuration["patch_size"]
        return tuple(size[self.order.index(axis)] for axis in range(len(size)))

    @property
    def dims(self) -> int:
        """Spatial axes of the network, 2 or 3."""
        return len(self.configuration["patch_size"])

    @property
    def order(self) -> tuple[int, ...]:
        """For each spatial axis of the network, its position among (z, y, x) or (y, x).

        Raises
        ------
        ValueError
            If a 2D network sees planes along another axis than z.
        """
        order = tuple(self.plans.get("transpose_forward", (0, 1, 2)))
        if sorted(order) != [0, 1, 2]:
            raise ValueError(f"transpose_forward {list(order)} of plans.json is no order of 3 axes")
        if self.dims == 3:
            return order
        if order[0] != 0:
            raise ValueError(f"{self.name} sees planes across {'zyx'[order[0]]}, not across z")
        return tuple(axis - 1 for axis in order[1:])

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return len(self.dataset.get("channel_names") or self.dataset["modality"])

    @property
    def has_regions(self) -> bool:
        """Whether the classes overlap, each with a channel of its own."""
        labels = self.dataset["labels"].values()
        return any(isinstance(label, list) and len(label) > 1 for label in labels)

    @property
    def classes(self) -> list[Any]:
        """Names of the classes in the order of the channels; the background is none with regions.

        Raises
        ------
        ValueError
            If the dataset has no background of label 0.
        """
        labels: Mapping[str, Any] = self.dataset["labels"]
        if labels.get("background") != 0:
            raise ValueError("dataset.json names no background of label 0")
        if self.has_regions:
            return [n for n, label in labels.items() if n != "ignore" and label not in (0, [0])]
        numbers = {n: v[0] if isinstance(v, list) else v for n, v in labels.items()}
        return sorted((n for n in numbers if n != "ignore"), key=lambda n: int(numbers[n]))


def read_plans(path: Path, configuration: object = None) -> Plans:
    """Read the plans of a trained model.

    Parameters
    ----------
    path
        The folder ``TRAINER__PLANS__CONFIGURATION``, or a zip that nnU-Net exported.
    configuration
        The configuration that the bank names; else the folder's name ends with it.

    Raises
    ------
    ValueError
        If there is no such model, several, or its files are not those of nnU-Net v2.
    """
    package = Package(path)
    names = package.names()
    roots = [n.removesuffix("plans.json") for n in names if re.fullmatch(r"(.*/)?plans\.json", n)]
    if configuration is not None and len(roots) > 1:
        roots = [r for r in roots if r.rstrip("/").endswith(f"__{configuration}")]
    if len(roots) != 1:
        raise ValueError(
            f"{path} holds {len(roots)} trained models (plans.json), not one: give the folder of "
            "one, or name it in arguments.configuration"
        )
    plans, dataset = (_parsed(package, f"{roots[0]}{n}.json") for n in ("plans", "dataset"))
    folder = roots[0].rstrip("/").rpartition("/")[2] or path.stem
    name = _configuration_name(plans, folder, configuration)
    return Plans(package, roots[0], plans, dataset, name, _inherited(plans, name))


def _parsed(package: Package, name: str) -> Mapping[str, Any]:
    try:
        document = json.loads(package.text(name))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(document, Mapping):
        raise ModelError(f"{name} must be a mapping, not a {type(document).__name__}")
    required = ("configurations",) if name.endswith("plans.json") else ("labels",)
    for key in required:
        if not isinstance(document.get(key), Mapping):
            raise ModelError(f"{name} has no {key}: it is none of nnU-Net v2")
    return document


def _configuration_name(plans: Mapping[str, Any], folder: str, configuration: object) -> str:
    names = list(plans["configurations"])
    name = folder.rpartition("__")[2] if configuration is None else configuration
    if configuration is None and name not in names and len(names) == 1:
        return str(names[0])
    if name not in names:
        raise ValueError(f"no configuration {name!r}: arguments.configuration, of {names}")
    return str(name)


def _inherited(plans: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a configuration with all that it inherits."""
    merged: dict[str, Any] = {}
    parent: Any = name
    for _ in range(_DEEPEST):
        section = plans["configurations"].get(parent)
        if not isinstance(section, Mapping):
            raise ModelError(f"the configuration {name} inherits from {parent!r}, which is none")
        merged = {**section, **merged}
        parent = section.get("inherits_from")
        if parent is None:
            break
    else:
        raise ValueError(f"the configuration {name} inherits from itself")
    if merged.get("previous_stage"):
        raise ValueError(f"{name} needs the segmentation of {merged['previous_stage']}: a cascade")
    if len(merged.get("patch_size", ())) not in (2, 3):
        raise ValueError(f"the configuration {name} has no patch_size of 2 or 3 extents")
    return merged


def described_entry(spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Return a model's plans as keys of a bank's entry.

    Parameters
    ----------
    spec
        The bank's entry; preprocessing and the output's activation are not read from the plans
        where the bank names them.
    path
        The folder or archive.

    Raises
    ------
    ValueError
        If :func:`read_plans` fails, or intensities are normalised in a way that a bank cannot
        express.
    """
    plans = read_plans(path, spec.arguments.get("configuration"))
    entry: dict[str, Any] = {
        "axes": "zyx"[3 - plans.dims :],
        "in_channels": plans.in_channels,
    }
    if (size := _voxel_size(plans)) is not None:
        entry["voxel_size"] = size
    if "preprocessing" not in spec.model_fields_set:
        entry["preprocessing"] = _steps(plans)
    if "activation" not in spec.output.model_fields_set:
        entry["output"] = _output(plans)
    return entry


def _voxel_size(plans: Plans) -> dict[str, Any] | None:
    """Return the voxel size; None where the images of the training had none in millimetre."""
    if not _IN_MILLIMETRES.fullmatch(str(plans.plans.get("image_reader_writer"))):
        return None
    axes = "zyx"[3 - plans.dims :]
    # a plane may have the spacing of its volume
    spacing = plans.configuration["spacing"][-plans.dims :]
    return {"unit": "millimeter"} | {axes[o]: s for o, s in zip(plans.order, spacing, strict=True)}


def _output(plans: Plans) -> dict[str, Any]:
    if plans.has_regions:
        return {"activation": "sigmoid"}
    foreground = list(range(1, len(plans.classes)))
    if not foreground:
        raise ValueError("dataset.json names no label but the background")
    several = {"classes": foreground} if len(foreground) > 1 else {"channel": 1}
    return {"activation": "softmax", **several}


def _steps(plans: Plans) -> list[dict[str, Any]]:
    """Return the normalisation: of all channels alike, or one channel after the other."""
    schemes = plans.configuration.get("normalization_schemes", [])
    masks = plans.configuration.get("use_mask_for_norm", [])
    if any(masks):
        raise ValueError(f"normalisation within a mask has no counterpart here: {_REMEDY}")
    unknown = [scheme for scheme in schemes if scheme not in _NORMALISATIONS]
    if unknown:
        raise ValueError(f"the normalisation {unknown[0]} has no counterpart here: {_REMEDY}")
    each = [_NORMALISATIONS[s](_intensities(plans, channel)) for channel, s in enumerate(schemes)]
    if all(steps == each[0] for steps in each):
        return each[0] if each else []
    return [step | {"channel": channel} for channel, steps in enumerate(each) for step in steps]


def _intensities(plans: Plans, channel: int) -> Mapping[str, float]:
    names = ("foreground_intensity_properties_per_channel",)
    older = ("foreground_intensity_properties_by_modality",)
    for name in names + older:
        section = plans.plans.get(name, {})
        if str(channel) in section:
            numbers: Mapping[str, float] = section[str(channel)]
            return numbers
    return {}


def _z_score(_: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"name": "zero_mean_unit_variance", "kwargs": {"eps": _EPS}}]


def _ct(numbers: Mapping[str, float]) -> list[dict[str, Any]]:
    needed = ("percentile_00_5", "percentile_99_5", "mean", "std")
    if missing := [n for n in needed if n not in numbers]:
        raise ValueError(f"CTNormalization needs {missing[0]} in plans.json")
    low, high, mean, std = (numbers[n] for n in needed)
    kwargs = {"mean": mean, "std": max(std, _EPS)}
    return [
        {"name": "clip", "kwargs": {"min": low, "max": high}},
        {"name": "fixed_zero_mean_unit_variance", "kwargs": kwargs},
    ]


def _to_01(_: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"name": "scale_range", "kwargs": {"eps": _EPS}}]


def _rgb(_: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"name": "scale_linear", "kwargs": {"gain": 1 / 255}}]


_NORMALISATIONS: dict[str, Callable[[Mapping[str, float]], list[dict[str, Any]]]] = {
    "ZScoreNormalization": _z_score,
    "CTNormalization": _ct,
    "RescaleTo01Normalization": _to_01,
    "RGBTo01Normalization": _rgb,
    "NoNormalization": lambda _: [],
}
