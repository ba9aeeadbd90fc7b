"""Reads the configuration and metadata of a MONAI bundle. No torch, no MONAI, nothing evaluated.

A configuration may hold expressions (``"$..."``), which MONAI evaluates as Python. They are text
here: what depends on one is refused. References to plain values (``"@image_channels"``) are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cte_dask.models import yaml as safe_yaml
from cte_dask.models.formats.monai_bundle.mapping import (
    image_transforms,
    output_of,
    steps_of,
    voxel_size_of,
)
from cte_dask.models.network import ModelError
from cte_dask.models.package import Package

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["NETWORKS", "Bundle", "described_entry", "read_bundle"]

NETWORKS = (
    "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "FlexibleUNet", "HighResNet",
    "MedNeXt", "MedNeXtB", "MedNeXtL", "MedNeXtM", "MedNeXtS", "SegResNet", "SegResNetDS",
    "SwinUNETR", "UNETR", "UNet", "VNet",
)  # fmt: skip
"""Classes of monai.networks.nets that a bundle may name: they segment, and read no files."""

_CONFIGURATION = re.compile(r"(?P<root>(?:.*/)?)configs/inference\.(?:json|ya?ml)")
_REFERENCE = re.compile(r"\$?@(\w+(?:(?:::|#)\w+)*)")
_TARGET = re.compile(r"(?:monai\.networks\.nets\.(?:\w+\.)?)?(\w+)")
_SECTIONS = ("network_def", "network", "net", "model")
_WEIGHTS = ("model.pt", "model.ts")
# names of arrays, which many bundles write as expressions
_KEYS = {f"$monai.utils.CommonKeys.{k}": k.lower() for k in ("IMAGE", "LABEL", "PRED")}
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """The texts of a bundle.

    Parameters
    ----------
    package
        Its files.
    root
        What stands before ``configs/`` and ``models/`` in their names: empty or a folder.
    document, metadata
        ``configs/inference`` and ``configs/metadata.json``; the latter is empty if there is none.
    own
        The bank's arguments: ``axes``, the order of the spatial axes in the network, such as
        ``zyx``, where it is not that of its reader; ``network``, arguments of the network's class
        in place of the bundle's.
    """

    package: Package
    root: str
    document: Mapping[str, Any]
    metadata: Mapping[str, Any]
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> Mapping[str, Any]:
        """The definition of the network, as it stands there; empty if there is none."""
        sections = (self.document.get(name) for name in _SECTIONS)
        return next((s for s in sections if isinstance(s, Mapping) and "_target_" in s), {})

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the network's class.

        Raises
        ------
        ValueError
            If one is no plain value.
        """
        theirs = {k: v for k, v in self.network.items() if not re.fullmatch("_.*_", k)}
        return {k: self._argument(k) for k in {**theirs, **self._named}}

    @property
    def _named(self) -> Mapping[str, Any]:
        named = self.own.get("network", {})
        if not isinstance(named, Mapping):
            raise ModelError(f"arguments.network {named!r} must map arguments to values")
        return named

    def _argument(self, name: str) -> Any:
        if name in self._named:
            return self._named[name]
        try:
            return self.plain(self.network.get(name), f"{name} of the network")
        except ValueError as error:
            raise ValueError(f"{error}: name it in arguments.network") from error

    @property
    def class_name(self) -> str:
        """The name of the network's class, one of :data:`NETWORKS`.

        Raises
        ------
        ValueError
            If it is none of these, or there is none.
        """
        if not self.network:
            raise ValueError("configs/inference has no network_def: its network is not known")
        target = str(self.network["_target_"])
        match = _TARGET.fullmatch(target)
        # MONAI has aliases such as Unet
        names = [n for n in NETWORKS if match and n.lower() == match[1].lower()]
        if not names:
            raise ValueError(
                f"its network {target} is none of MONAI's networks for segmentation: give the "
                "bundle's model.ts, or load it with format python and trust: true"
            )
        return names[0]

    def weights(self, file_name: Any = None) -> str:
        """Return the name of the weights below ``models/``; a class that is known comes first.

        Parameters
        ----------
        file_name
            The name that the bank asks for; None for ``model.pt``, else ``model.ts``.

        Raises
        ------
        ValueError
            If it is not there.
        """
        folder = f"{self.root}models/"
        names = [n.removeprefix(folder) for n in self.package.names() if n.startswith(folder)]
        usable = [n for n in _WEIGHTS if file_name in (None, n) and n in names]
        if file_name in names:
            return str(file_name)
        if not usable:
            missing = file_name or " or ".join(_WEIGHTS)
            raise ValueError(f"no weights models/{missing}: there are {', '.join(names) or 'none'}")
        if usable == list(_WEIGHTS) and not self._is_known:
            return usable[1]
        return usable[0]

    @property
    def _is_known(self) -> bool:
        try:
            return bool(self.class_name)
        except ValueError:
            return False

    @property
    def dims(self) -> int:
        """Spatial axes of the network, 2 or 3."""
        dims = self.number("spatial_dims", "dimensions")
        if dims is None:  # what MONAI's networks take
            dims = len(self._data("inputs", "image").get("spatial_shape") or (1, 1, 1))
        if dims not in (2, 3):
            raise ValueError(f"the network has {dims} spatial axes: 2 and 3 are known")
        return dims

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.number("in_channels") or self._data("inputs", "image").get("num_channels") or 1

    @property
    def out_channels(self) -> int | None:
        """Channels of the prediction; None if the bundle does not say."""
        channels = self.number("out_channels", "num_classes")
        return channels or self._data("outputs", "pred").get("num_channels")

    @property
    def order(self) -> tuple[int, ...]:
        """For each spatial axis of the network, its position among (z, y, x) or (y, x).

        MONAI's readers give an image as (x, y, z), all but the one of NumPy files.

        Raises
        ------
        ValueError
            If the bank names other axes than these.
        """
        ours = "zyx"[3 - self.dims :]
        axes = str(self.own.get("axes") or "") or (
            ours if self._reader == "NumpyReader" else ours[::-1]
        )
        if sorted(axes) != sorted(ours):
            raise ValueError(f"arguments.axes {axes!r} must be an order of {', '.join(ours)}")
        return tuple(ours.index(axis) for axis in axes)

    @property
    def _reader(self) -> Any:
        try:
            readers = [t.get("reader") for t in self.transforms() if t.name == "LoadImage"]
        except ValueError:  # expressions: the bank has the preprocessing then
            return None
        return readers[0] if readers else None

    @property
    def window(self) -> tuple[int, ...] | None:
        """Extents (z, y, x) of the windows that the bundle predicts; None if it does not say."""
        inferer = self.document.get("inferer")
        size = inferer.get("roi_size") if isinstance(inferer, Mapping) else None
        try:
            size = self.plain(size, "roi_size")
        except ValueError:  # a hint, no more: an expression hides it
            return None
        extents = [size] * self.dims if isinstance(size, int) else size
        if not isinstance(extents, list) or len(extents) != self.dims:
            return None
        return tuple(extents[axis] for axis in self.order)

    def transforms(self, section: str = "preprocessing", key: str = "image") -> list[Any]:
        """Return the transforms of a section that act on an image; see `image_transforms`."""
        return image_transforms(self.document.get(section), key, self.plain)

    def number(self, *names: str) -> int | None:
        """Return the first of these arguments of the network that is a plain integer."""
        for name in names:
            try:
                value = self._argument(name)
            except ValueError:  # who builds the network asks for all arguments
                continue
            if isinstance(value, int):
                return value
        return None

    def _data(self, side: str, name: str) -> Mapping[str, Any]:
        section: Any = self.metadata
        for key in ("network_data_format", side, name):
            section = section.get(key) if isinstance(section, Mapping) else None
        return section if isinstance(section, Mapping) else {}

    def plain(self, value: Any, where: str, *, depth: int = 0) -> Any:
        """Return a value of the configuration with references replaced by what they name.

        Parameters
        ----------
        value
            A value of the configuration.
        where
            What it is, for the error.
        depth
            How many values it lies in.

        Raises
        ------
        ValueError
            If it is, holds or refers to something that would have to run.
        """
        if depth > _DEEPEST:
            raise ValueError(f"{where} is nested too deeply, or refers to itself")
        if isinstance(value, str):
            return self._text(value, where, depth)
        if isinstance(value, list):
            return [self.plain(v, where, depth=depth + 1) for v in value]
        if isinstance(value, Mapping):
            if "_target_" in value:
                raise ValueError(f"{where} makes a {value['_target_']}: only plain values are read")
            return {k: self.plain(v, where, depth=depth + 1) for k, v in value.items()}
        return value

    def _text(self, text: str, where: str, depth: int) -> Any:
        if reference := _REFERENCE.fullmatch(text):
            value: Any = self.document
            for name in re.split("::|#", reference[1]):
                value = _item(value, name, f"{where} refers to {text!r}")
            return self.plain(value, where, depth=depth + 1)
        if text in _KEYS:
            return _KEYS[text]
        if text.startswith(("$", "@", "%")):
            raise ValueError(f"{where} is {text!r}, an expression: a bundle is not evaluated")
        return text


def _item(value: Any, name: str, where: str) -> Any:
    if isinstance(value, Mapping) and name in value:
        return value[name]
    if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
        return value[int(name)]
    raise ValueError(f"{where}, which is not there")


def read_bundle(path: Path, arguments: Mapping[str, Any] | None = None) -> Bundle:
    """Read the configuration and metadata of a bundle.

    Parameters
    ----------
    path
        A folder, or a zip that holds the bundle or its folder.
    arguments
        Those of the bank; see :class:`Bundle`.

    Raises
    ------
    ValueError
        If it holds no ``configs/inference.json`` or ``.yaml``, several, or one that is not valid.
    """
    package = Package(path)
    names = package.names()
    matches = [m for m in map(_CONFIGURATION.fullmatch, names) if m]
    if len(matches) != 1:
        raise ValueError(
            f"{path} holds {len(matches)} files configs/inference.json or .yaml, not one: "
            "it is no MONAI bundle"
        )
    root = matches[0]["root"]
    metadata = f"{root}configs/metadata.json"
    described = _parsed(package, metadata) if metadata in names else {}
    document = _parsed(package, matches[0][0])
    return Bundle(package, root, document, described, arguments or {})


def _parsed(package: Package, name: str) -> Mapping[str, Any]:
    text = package.text(name)
    try:
        document = json.loads(text) if name.endswith(".json") else safe_yaml.parse(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(document, Mapping):
        raise ModelError(f"{name} must be a mapping, not a {type(document).__name__}")
    return document


def described_entry(spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Return a bundle's configuration as keys of a bank's entry.

    Parameters
    ----------
    spec
        The bank's entry; preprocessing and the output's activation are not read from the bundle
        where the bank names them.
    path
        The folder or archive.

    Raises
    ------
    ValueError
        If :func:`read_bundle` fails, or a transform has no counterpart in a bank.
    """
    bundle = read_bundle(path, spec.arguments)
    if not bundle.weights(spec.arguments.get("weights")).endswith(".ts"):
        _ = bundle.class_name, bundle.arguments  # raise for what cannot be built
    entry: dict[str, Any] = {
        "axes": "zyx"[3 - bundle.dims :],
        "in_channels": bundle.in_channels,
    }
    if "preprocessing" not in spec.model_fields_set:
        entry["preprocessing"] = steps_of(bundle.transforms(), bundle.in_channels)
        if (size := voxel_size_of(bundle.transforms(), bundle.order)) is not None:
            entry["voxel_size"] = size
    if "activation" not in spec.output.model_fields_set:
        transforms = bundle.transforms("postprocessing", "pred")
        entry["output"] = output_of(transforms, bundle.out_channels)
    return entry
