"""ModelSpec: everything a bank says about one source model, without loading it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, StrictBool, StrictInt, field_validator, model_validator

from cte_dask.models.format_registry import FORMATS
from cte_dask.models.preprocessing import Step
from cte_dask.models.yaml import Strict
from cte_dask.registry import is_reference
from cte_dask.storage import is_url

__all__ = ["DeclaredVoxelSize", "ModelSpec", "Output", "Segmentation", "Step"]

Shape = tuple[int, int, int]

NANOMETRES = {"angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6}
OWN = "cte_dask.models."


class Output(Strict):
    """How the network's output becomes a foreground probability.

    Parameters
    ----------
    channel
        The output channel that is the foreground.
    activation
        Function that turns the network's output into a probability; ``"none"`` if it is one
        already, ``"labels"`` if it holds instance labels, 0 for the background.
    threshold
        A voxel is foreground if its probability is strictly greater.
    classes
        Channels of a multi-class output that are foreground classes: a voxel belongs to the most
        probable of all channels, and consistencies are means over the classes present.
    index
        Position or name of the output, where the network returns several.
    """

    channel: StrictInt = Field(default=0, ge=0)
    activation: Literal["sigmoid", "softmax", "none", "labels"] = "sigmoid"
    threshold: float = Field(default=0.5, ge=0, lt=1)
    classes: tuple[StrictInt, ...] = ()
    index: StrictInt | str | None = None

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(classes)) < len(classes) or min(classes, default=0) < 0:
            raise ValueError(f"classes {list(classes)} must be distinct channels from 0")
        return classes


class Segmentation(Strict):
    """How probability maps become instances; see `cte_dask.inference.segmenters`.

    Parameters
    ----------
    name
        A segmenter, such as ``components``, ``distance_watershed``, ``boundary_watershed``.
    channels
        Output channel of each map that the segmenter takes (several for affinities); the
        foreground is ``output.channel`` unless it is named here.
    parameters
        Parameters of the segmenter.
    """

    name: str = "components"
    channels: dict[str, StrictInt | tuple[StrictInt, ...]] = Field(default_factory=dict)
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


class DeclaredVoxelSize(Strict):
    """The training voxel size as the bank declares it, in any unit; a 2D model needs no ``z``."""

    z: float | None = Field(default=None, gt=0)
    y: float = Field(gt=0)
    x: float = Field(gt=0)
    unit: Literal["angstrom", "nanometer", "micrometer", "millimeter"]


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
        Channels of the network's input.

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
    voxel_size: DeclaredVoxelSize | None = None
    preprocessing: tuple[Step, ...] = ()
    output: Output = Output()
    resample: StrictBool = False
    segmenter: Segmentation | None = None
    bottleneck: str | None = Field(default=None, min_length=1)
    layers: tuple[str, ...] = ()
    in_channels: StrictInt = Field(default=1, ge=1)

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

    # a bank may name a single layer without the list
    @model_validator(mode="before")
    @classmethod
    def _one_layer(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("layers"), str):
            return {**data, "layers": (data["layers"],)}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_axes("halo", self.halo, least=0)
        self._check_axes("multiple", self.multiple, least=1)
        if self.voxel_size is not None and self.dims == 3 and self.voxel_size.z is None:
            raise ValueError("voxel_size needs z for a model with axes zyx")
        if self.resample and self.voxel_size is None:
            raise ValueError("resample: true needs the model's voxel_size")
        self._check_preprocessing()
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

    def _check_preprocessing(self) -> None:
        # after a step that is not affine the volume's mean cannot be told from the raw mean
        bent = False
        for step in self.preprocessing:
            if bent and step.name == "zero_mean_unit_variance" and step.scope == "volume":
                raise ValueError(
                    "preprocessing: zero_mean_unit_variance of scope volume cannot follow clip or "
                    "an integer type, the volume's mean after it is not known: put it before or "
                    "use scope: tile"
                )
            bent = bent or step.bends

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
        data = self.model_dump(mode="json", exclude={"source"} if self.sha256 else None)
        return hashlib.sha256(canonical_json(data).encode()).hexdigest()

    # pydantic hashes the fields, and some are dicts, which have no hash
    def __hash__(self) -> int:
        return hash((self.name, self.digest()))


def canonical_json(data: object) -> str:
    """Return JSON with sorted keys and no spaces: equal data gives equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _zyx(values: dict[str, int], *, missing: int) -> Shape:
    return values.get("z", missing), values["y"], values["x"]
