"""Reads a configuration file of pytorch-3dunet or PlantSeg: model, normalisation. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cte_dask.models import yaml as safe_yaml
from cte_dask.models.network import ModelError
from cte_dask.models.package import Package
from cte_dask.models.yaml import one_line

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["Configuration", "configuration", "described_entry"]

_NAMES = ("config_train.yml", "train_config.yml", "config.yml", "test_config.yml")


class Configuration(BaseModel):
    """The section ``model`` of a configuration, without the keys that matter in training only.

    Parameters
    ----------
    name
        A key of :data:`cte_dask.models.formats.pytorch3dunet.network.NETWORKS`.
    in_channels, out_channels
        Channels of the image and of the logits.
    f_maps
        Feature maps of each level, or of the first alone; each further level has twice as many.
    num_levels
        Number of levels where `f_maps` is one number: 4, for residual networks 5.
    layer_order, num_groups, conv_padding, conv_upscale, upsample
        The keys of pytorch-3dunet, with its defaults; its networks ignore ``conv_kernel_size`` and
        ``pool_kernel_size``, and so does this class.
    final_sigmoid
        Whether each channel is a probability of its own (sigmoid), or the channels are exclusive
        classes (softmax).
    is_segmentation
        Whether the output is a probability, not a regressed value.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    name: Literal["UNet2D", "UNet3D", "ResidualUNet2D", "ResidualUNet3D", "ResidualUNetSE3D"]
    in_channels: int = Field(ge=1, le=1024)
    out_channels: int = Field(ge=1, le=1024)
    f_maps: int | tuple[int, ...] = 64
    num_levels: int | None = Field(default=None, ge=2, le=10)
    layer_order: str = "gcr"
    num_groups: int = Field(default=8, ge=1)
    conv_padding: int = Field(default=1, ge=0, le=15)
    conv_upscale: int = Field(default=2, ge=1, le=2)
    upsample: str = "default"
    final_sigmoid: bool = True
    is_segmentation: bool = True

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        # a key without a value in YAML stands for its default
        is_mapping = isinstance(data, Mapping)
        return {k: v for k, v in data.items() if v is not None} if is_mapping else data

    @property
    def dims(self) -> int:
        """Spatial dimensions."""
        return 2 if self.name.endswith("2D") else 3

    @property
    def features(self) -> tuple[int, ...]:
        """Feature maps of each level."""
        if not isinstance(self.f_maps, int):
            return self.f_maps
        levels = self.num_levels or (5 if self.name.startswith("Residual") else 4)
        return tuple(self.f_maps * 2**level for level in range(levels))

    @property
    def activation(self) -> Literal["sigmoid", "softmax", "none"]:
        """The function that pytorch-3dunet applies to the logits."""
        if not self.is_segmentation:
            return "none"
        return "sigmoid" if self.final_sigmoid else "softmax"


def configuration(
    package: Package, file_name: object = None
) -> tuple[Configuration, Mapping[str, Any]]:
    """Return the model section of a package's configuration, and the whole file.

    Parameters
    ----------
    package
        The folder or archive.
    file_name
        Name of the configuration in the package; searched for when left out.

    Raises
    ------
    ValueError
        If there is no such file, more than one, or it describes no network of the family.
    """
    name = _name(package, file_name)
    document = _parsed(package, name)
    section = document.get("model") if isinstance(document, Mapping) else None
    if not isinstance(section, Mapping):
        raise ModelError(f"{name} has no section model: it is no pytorch-3dunet configuration")
    try:
        return Configuration.model_validate(dict(section)), document
    except ValidationError as error:
        raise ValueError(f"{name}: model: {one_line(error)}") from error


def described_entry(spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Return a package's configuration as keys of a bank's entry.

    Parameters
    ----------
    spec
        The bank's entry; preprocessing that it names is not read from the package.
    path
        The folder or archive.

    Raises
    ------
    ValueError
        If :func:`configuration` fails, or intensities are normalised in an unknown way.
    """
    model, document = configuration(Package(path), spec.arguments.get("config"))
    entry: dict[str, Any] = {
        "axes": "yx" if model.dims == 2 else "zyx",
        "in_channels": model.in_channels,
        "output": {"activation": model.activation},
    }
    steps = None if "preprocessing" in spec.model_fields_set else _steps(document)
    return entry if steps is None else {**entry, "preprocessing": steps}


def _name(package: Package, file_name: object) -> str:
    names = [n for n in package.names() if PurePosixPath(n).suffix in (".yml", ".yaml")]
    if file_name is not None:
        if file_name not in names:
            there = ", ".join(names) or "none"
            raise ValueError(f"no configuration {file_name!r}: there are {there}")
        return str(file_name)
    for usual_name in _NAMES:
        named = [n for n in names if PurePosixPath(n).with_suffix(".yml").name == usual_name]
        if len(named) == 1:
            return named[0]
    if len(names) != 1:
        raise ValueError(
            f"{len(names)} configurations (.yml) in {package.path}, not one: "
            "name it in arguments.config"
        )
    return names[0]


def _parsed(package: Package, name: str) -> Any:
    try:
        return safe_yaml.parse(package.text(name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _steps(document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the normalisation of test, validation or training data; None if there is none."""
    loaders = document.get("loaders")
    if not isinstance(loaders, Mapping):
        return None
    # pytorch-3dunet's default: statistics of the whole volume
    scope = "volume" if loaders.get("global_normalization", True) else "tile"
    for phase in ("test", "val", "train"):
        section = loaders.get(phase)
        transformer = section.get("transformer") if isinstance(section, Mapping) else None
        raw = transformer.get("raw") if isinstance(transformer, Mapping) else None
        if isinstance(raw, list):
            return [s for t in raw if isinstance(t, Mapping) for s in _step(t, scope)]
    return None


def _step(transform: Mapping[str, Any], scope: str) -> list[dict[str, Any]]:
    name = transform.get("name")
    if name in ("Standardize", "PercentileNormalizer") and transform.get("channelwise"):
        raise ValueError(f"{name} of each channel is not supported: give preprocessing in the bank")
    if name == "Standardize":
        if transform.get("mean") is not None:
            fixed = {"mean": transform.get("mean"), "std": transform.get("std")}
            return [{"name": "fixed_zero_mean_unit_variance", "kwargs": fixed}]
        return [{"name": "zero_mean_unit_variance", "kwargs": {"eps": 1e-10}, "scope": scope}]
    if name == "PercentileNormalizer":
        low, high = transform.get("pmin", 1.0), transform.get("pmax", 99.6)
        kwargs = {"min_percentile": low, "max_percentile": high, "eps": 1e-10}
        return [{"name": "scale_range", "kwargs": kwargs, "scope": scope}]
    if name == "Normalize":
        return _normalised(transform, scope)
    # Other transforms augment the training data, or change their type.
    return []


def _normalised(transform: Mapping[str, Any], scope: str) -> list[dict[str, Any]]:
    low, high = transform.get("min_value"), transform.get("max_value")
    if (low is None) != (high is None):
        raise ValueError(
            "Normalize with one of min_value, max_value: give preprocessing in the bank"
        )
    # without bounds pytorch-3dunet takes the minimum and maximum, percentiles 0 and 100
    if low is None or high is None:
        first = {"name": "scale_range", "kwargs": {"eps": 1e-10}, "scope": scope}
    else:
        width = float(high) - float(low) + 1e-10
        kwargs = {"gain": 1 / width, "offset": -float(low) / width}
        first = {"name": "scale_linear", "kwargs": kwargs}
    if transform.get("norm01"):
        return [first, {"name": "clip", "kwargs": {"min": 0.0, "max": 1.0}}]
    wide = {"name": "scale_linear", "kwargs": {"gain": 2.0, "offset": -1.0}}
    return [first, wide, {"name": "clip", "kwargs": {"min": -1.0, "max": 1.0}}]
