"""ModelSpec: everything a bank says about one source model, without loading it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, StrictBool, StrictInt, field_validator, model_validator

from cte_dask.models.declared_voxel_size import NANOMETRES, DeclaredVoxelSize
from cte_dask.models.format_registry import DESCRIPTIONS, FORMATS
from cte_dask.models.output import Output, Segmentation
from cte_dask.models.preprocessing import Step, check_steps
from cte_dask.models.yaml import Strict
from cte_dask.registry import is_reference
from cte_dask.storage import is_url

__all__ = ["ModelSpec", "Step", "Variant", "checked_scale"]

Shape = tuple[int, int, int]

Channel = Annotated[StrictInt, Field(ge=0)] | Annotated[str, Field(min_length=1)]

OWN = "cte_dask.models."

LEAST_SCALE, MOST_SCALE = 1 / 16, 16.0


def checked_scale(scale: Any) -> float:
    """Return a scale that networks may see the target at.

    Raises
    ------
    ValueError
        If it is no number within reason.
    """
    number = isinstance(scale, Real) and not isinstance(scale, bool)
    if not number or not LEAST_SCALE <= scale <= MOST_SCALE:  # NaN is not between them
        raise ValueError(
            f"scale {scale!r} must be a number from {LEAST_SCALE:g} to {MOST_SCALE:g}: how much "
            "larger the network sees the target"
        )
    return float(scale)


class Variant(Strict):
    """A way to use a model.

    Parameters
    ----------
    name
        What follows the model's name; by default what is changed, such as ``×0.5 inverted``.
    scale
        How much larger than it is the network sees the target; below 1 it sees it smaller.
    invert
        Whether the contrast is inverted before the preprocessing: x becomes 1 - x, in units of the
        target's 1st to 99.8th percentile.
    preprocessing
        Steps in place of the model's own; None for its own.

    Raises
    ------
    pydantic.ValidationError
        A ``ValueError`` naming the key, the bad value and what is accepted.
    """

    name: str | None = Field(default=None, min_length=1, max_length=100)
    scale: float = 1.0
    invert: StrictBool = False
    preprocessing: tuple[Step, ...] | None = None

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str | None) -> str | None:
        if name is not None and (not name.isprintable() or name != name.strip()):
            raise ValueError(f"{name!r} must be printable, without spaces around it")
        return name

    @field_validator("scale")
    @classmethod
    def _sensible(cls, scale: float) -> float:
        return checked_scale(scale)

    @property
    def plain(self) -> bool:
        """Whether nothing is changed."""
        return self.scale == 1 and not self.invert and self.preprocessing is None

    @property
    def label(self) -> str:
        """What follows the model's name; empty if nothing is changed."""
        return self.name or " ".join(self._changes())

    def _changes(self) -> list[str]:
        steps = self.preprocessing
        return [
            *([f"×{self.scale:g}"] if self.scale != 1 else []),
            *(["inverted"] if self.invert else []),
            *(["+".join(s.name for s in steps) or "raw"] if steps is not None else []),
        ]

    def candidate_name(self, model: str) -> str:
        """Return the name of the candidate that a model makes so.

        Examples
        --------
        >>> Variant(scale=0.25).candidate_name("nuclei-blurry")
        'nuclei-blurry ×0.25'
        """
        return f"{model} {self.label}".rstrip()

    def applied(self, spec: ModelSpec) -> ModelSpec:
        """Return a model with this variant's preprocessing, and no variants of its own."""
        changed: dict[str, Any] = {"variants": ()} if spec.variants else {}
        if self.preprocessing is not None:
            changed["preprocessing"] = self.preprocessing
        return spec.model_copy(update=changed) if changed else spec

    def to_dict(self, model: str) -> dict[str, Any]:
        """Return plain data: the model's name, the scale, and what else is changed."""
        changed = self.model_dump(mode="json", exclude_defaults=True)
        return {"model": model, "scale": self.scale, **changed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_dict` wrote, its model left out."""
        return cls.model_validate({k: v for k, v in data.items() if k != "model"})

    # pydantic hashes the fields, and the steps hold dicts, which have no hash
    def __hash__(self) -> int:
        return hash((self.label, self.scale, self.invert))


class ModelSpec(Strict):
    """One source model of a bank: a small, hashable, picklable value.

    Parameters
    ----------
    name
        Printable and unique in its bank.
    format
        A key of :data:`cte_dask.models.format_registry.FORMATS`, or
        ``"your_package.module:Loader"`` (needs ``trust``).
    source
        Path or URL of the weights; ``"module:function"`` for format ``python``.
    sha256
        Hex digest of the weights; required for a URL.
    architecture
        ``"package.module:Class"`` of a state dict. Outside ``cte_dask.models`` it needs ``trust``.
    arguments
        Keyword arguments of the architecture or factory.
    trust
        Whether this model may run code that is not part of cte_dask.
    axes
        ``"yx"`` for a 2D model, run plane by plane, or ``"zyx"``.
    halo
        Voxels of context per side and axis; probed from the network when left out.
    multiple
        Divisor of the input extents along each axis; probed when left out.
    extent
        The only extent along each axis that the network takes; found when left out.
    voxel_size
        Voxel size of the training data.
    preprocessing
        Steps from raw intensities to the network's input.
    output
        How the output becomes a foreground probability.
    resample
        Whether the target is interpolated to the training voxel size, and predictions back.
    segmenter
        How the output becomes instances; by default the connected components of the foreground.
    bottleneck
        Name of the module whose output is the bottleneck; found when left out.
    layers
        Further modules to perturb beside the bottleneck.
    in_channels
        Channels of the network's input; by default as many as `channels`.
    channels
        Channels of the target that it sees, by name or number in the order of its input, or
        ``rgb``; one may be repeated over all of `in_channels`. Left out, it sees the channel that
        is scored, repeated.
    layout
        Where its input has its channels: ``"channels_first"`` or ``"channels_last"``, as networks
        of TensorFlow have them; found when left out.
    variants
        Further ways to use the model, each a candidate of its own.

    Raises
    ------
    pydantic.ValidationError
        A ``ValueError`` naming the key, the bad value and what is accepted.
    """

    name: str = Field(min_length=1, max_length=200)
    format: str
    source: str = Field(min_length=1)
    sha256: str | None = None
    architecture: str | None = None
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    trust: StrictBool = False
    axes: Literal["yx", "zyx"] = "yx"
    halo: dict[str, StrictInt] | None = None
    multiple: dict[str, StrictInt] | None = None
    extent: dict[str, StrictInt] | None = None
    voxel_size: DeclaredVoxelSize | None = None
    preprocessing: tuple[Step, ...] = ()
    output: Output = Output()
    resample: StrictBool = False
    segmenter: Segmentation | None = None
    bottleneck: str | None = Field(default=None, min_length=1)
    layers: tuple[str, ...] = ()
    in_channels: StrictInt = Field(default=1, ge=1)
    channels: tuple[Channel, ...] = ()
    layout: Literal["channels_first", "channels_last"] | None = None
    variants: tuple[Variant, ...] = ()

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError(f"{name!r} must be printable, without spaces around it")
        return name

    @field_validator("format")
    @classmethod
    def _known_format(cls, format_: str) -> str:
        FORMATS.check(format_)
        return format_

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, digest: str | None) -> str | None:
        if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise ValueError(f"{digest!r} is not a SHA-256: 64 hexadecimal digits")
        return digest and digest.lower()

    # a bank may name a single layer or channel without the list
    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        lists = {k: data[k] for k in ("layers", "channels") if k in data}
        data = {**data, **{k: (v,) for k, v in lists.items() if isinstance(v, str | int)}}
        channels = data.get("channels")
        if isinstance(channels, list | tuple) and channels and "in_channels" not in data:
            data["in_channels"] = _channel_count(channels)
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_axes("halo", self.halo, least=0)
        self._check_axes("multiple", self.multiple, least=1)
        self._check_axes("extent", self.extent, least=1)
        if self.voxel_size is not None and self.dims == 3 and self.voxel_size.z is None:
            raise ValueError("voxel_size needs z for a model with axes zyx")
        if self.resample and self.voxel_size is None:
            raise ValueError("resample: true needs the model's voxel_size")
        self._check_preprocessing("preprocessing", self.preprocessing)
        self._check_channels()
        self._check_variants()
        self._check_source()
        self._check_trust()
        return self

    def _check_axes(self, key: str, values: dict[str, int] | None, *, least: int) -> None:
        if values is None:
            return
        if set(values) != set(self.axes):
            names = ", ".join(values) or "none"
            raise ValueError(f"{key} must name the axes {', '.join(self.axes)}, not {names}")
        for axis, value in values.items():
            if value < least:
                raise ValueError(f"{key} along {axis} must be at least {least}, not {value}")

    def _check_preprocessing(self, key: str, steps: tuple[Step, ...]) -> None:
        # what the bank leaves out, a package may tell later
        settled = "in_channels" in self.model_fields_set or self.format not in DESCRIPTIONS
        seen = _channel_count(self.channels) or 1
        try:
            check_steps(steps, inputs=self.in_channels if settled else None, seen=seen)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None

    def _check_channels(self) -> None:
        count = _channel_count(self.channels)
        if count > 1 and count != self.in_channels:
            named = ", ".join(map(str, self.channels))
            raise ValueError(
                f"channels ({named}) are {count}, in_channels {self.in_channels}: name one for "
                "each, or one that is repeated"
            )

    def _check_variants(self) -> None:
        labels: set[str] = set()
        for number, variant in enumerate(self.variants):
            key = f"variants.{number}"
            if variant.plain:
                raise ValueError(f"{key} changes nothing: give scale, invert or preprocessing")
            if variant.label in labels:
                raise ValueError(f"{key}: {variant.label!r} appears twice: give it a name")
            self._check_preprocessing(f"{key}.preprocessing", variant.preprocessing or ())
            labels.add(variant.label)

    def _check_source(self) -> None:
        if self.format == "python":
            if not is_reference(self.source):
                raise ValueError(f"source {self.source!r} must be 'package.module:function'")
            if self.sha256 is not None:
                raise ValueError("sha256 does not apply to format python: there is no file")
        elif is_url(self.source) and self.sha256 is None:
            raise ValueError(f"sha256 is required for a URL ({self.source})")
        if self.format == "state_dict" and self.architecture is None:
            raise ValueError("architecture is required for format state_dict")
        if self.architecture is not None and not is_reference(self.architecture):
            raise ValueError(f"architecture {self.architecture!r} must be 'package.module:Class'")
        own = self.architecture or self.arguments
        if self.format in ("torchscript", "torch_export", "onnx") and own:
            raise ValueError(f"format {self.format} holds its network: no architecture, arguments")
        if self.format == "python" and self.architecture:
            raise ValueError("format python takes its network from source: no architecture")

    def _check_trust(self) -> None:
        # what may run code of others, and whether this model does
        foreign = {
            f"format {self.format}": self.format == "python" or self.format not in FORMATS,
            f"architecture {self.architecture}": self.architecture is not None
            and not self.architecture.startswith(OWN),
        }
        if self.segmenter is not None:  # a name with a colon is imported and called
            foreign[f"segmenter {self.segmenter.name}"] = ":" in self.segmenter.name
        for key, runs_code in foreign.items():
            if runs_code and not self.trust:
                raise ValueError(f"{key} runs code outside cte_dask: it needs trust: true")

    @property
    def dims(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.axes)

    @property
    def halo_zyx(self) -> Shape | None:
        """Context per side in voxels (z, y, x), 0 along z for a 2D model; None before probing."""
        return None if self.halo is None else _zyx(self.halo, missing=0)

    @property
    def multiple_zyx(self) -> Shape | None:
        """Divisor of the input extents (z, y, x), 1 along z for a 2D model; None before probing."""
        return None if self.multiple is None else _zyx(self.multiple, missing=1)

    @property
    def voxel_size_nm(self) -> tuple[float | None, float, float] | None:
        """Voxel size of the training data in nanometre (z, y, x)."""
        if self.voxel_size is None:
            return None
        size, unit = self.voxel_size, NANOMETRES[self.voxel_size.unit]
        return size.z and size.z * unit, size.y * unit, size.x * unit

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON.

        Weights of known sha256 are the same model at any path, so the source is left out.
        """
        # a model that does not use a key is what it was before there was one
        unsaid = {"source"} if self.sha256 else set()
        unused = ("variants", "channels", "layout", "extent")
        unsaid |= {key for key in unused if not getattr(self, key)}
        data = self.model_dump(mode="json", exclude=unsaid)
        return hashlib.sha256(canonical_json(data).encode()).hexdigest()

    # pydantic hashes the fields, and some are dicts, which have no hash
    def __hash__(self) -> int:
        return hash((self.name, self.digest()))


def canonical_json(data: object) -> str:
    """Return JSON with sorted keys and no spaces: equal data gives equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _channel_count(channels: Sequence[int | str]) -> int:
    return 3 if tuple(channels) == ("rgb",) else len(channels)


def _zyx(values: dict[str, int], *, missing: int) -> Shape:
    return values.get("z", missing), values["y"], values["x"]
