"""Reads the description (``rdf.yaml``) of a BioImage.IO package. No torch, no network.

bioimageio.spec validates it; nothing that a description refers to is downloaded or run.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cte_dask.models import yaml as safe_yaml
from cte_dask.models.formats.bioimageio.mapping import (
    axes_of,
    channels_of,
    extents,
    output_of,
    place_of,
    steps_of,
    voxel_size,
)
from cte_dask.models.formats.bioimageio.older import set_aside
from cte_dask.models.network import ModelError
from cte_dask.models.package import Package

if TYPE_CHECKING:
    from cte_dask.models.spec import ModelSpec

__all__ = ["Description", "described_entry", "read_description"]

_NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
_USABLE = ("pytorch_state_dict", "torchscript", "onnx")


@dataclass(frozen=True, slots=True)
class Description:
    """A validated description.

    Parameters
    ----------
    package
        The files that it refers to.
    model
        bioimageio.spec's object, of the newest version of the format.
    halos
        Name of an output → its halo, where that stands beside the description.
    warnings
        What bioimageio.spec says about the description, a line each.
    """

    package: Package
    model: Any
    halos: Mapping[str, dict[str, int]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def image(self) -> Any:
        """The description of the input image."""
        return self.model.inputs[0]


def described_entry(spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Return a package's description as keys of a bank's entry.

    Parameters
    ----------
    spec
        The bank's entry; preprocessing that it names is not read from the package.
    path
        ``rdf.yaml``, its folder or the archive.

    Raises
    ------
    ValueError
        If :func:`read_description` fails, or a processing step cannot be expressed in a bank.
    """
    description = read_description(path)
    model, image = description.model, description.image
    axes = axes_of(image)
    tensor = model.outputs[place_of(model, spec.output)]
    entry: dict[str, Any] = {
        "axes": "".join(a for a in "zyx" if a in axes),
        "in_channels": channels_of(image),
        **extents(image, tensor),
    }
    if str(tensor.id) in description.halos:
        entry["halo"] = description.halos[str(tensor.id)]
    if (size := voxel_size(image)) is not None:
        entry["voxel_size"] = size
    if "preprocessing" not in spec.model_fields_set:
        entry["preprocessing"] = steps_of(image)
    entry["output"] = output_of(model, spec.output)
    return entry


def read_description(path: Path) -> Description:
    """Read and validate the description of a package.

    Raises
    ------
    ValueError
        If there is no description, it is invalid, describes no model of one image, or lists only
        weights of formats that are not supported.
    """
    package = Package(path)
    name = _name(package)
    try:
        document = safe_yaml.parse(package.text(name))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(document, Mapping) or document.get("type") != "model":
        raise ModelError(f"{name} describes no model (type: model)")
    _refuse_weights(name, document.get("weights"))
    for tensor in document.get("inputs") or ():
        if isinstance(tensor, Mapping) and "output_of" in tensor:
            raise ValueError(f"{name}: an input is the output of another model (output_of)")
    document, older = set_aside(dict(document))
    model, remarks = _validated(package, name, document)
    older.restore(model)
    required = [tensor for tensor in model.inputs if not tensor.optional]
    if len(required) != 1 or required[0] is not model.inputs[0]:
        raise ValueError(f"{name}: the model takes {len(required)} inputs, not one image")
    return Description(package, model, older.halos, remarks)


def _name(package: Package) -> str:
    if package.path.is_file() and not package.is_zip:
        return package.path.name
    names = [name for name in package.names() if "/" not in name]
    for name in _NAMES:
        if name in names:
            return name
    prefixed = [n for n in names if n.endswith(tuple(f".{name}" for name in _NAMES))]
    if len(prefixed) != 1:
        raise ValueError(f"{package.path} holds no rdf.yaml: it is no BioImage.IO package")
    return prefixed[0]


def _refuse_weights(name: str, weights: object) -> None:
    kinds = list(weights) if isinstance(weights, Mapping) else []
    if kinds and not set(kinds) & set(_USABLE):
        raise ValueError(
            f"{name} has only the weights {', '.join(map(str, kinds))}: TensorFlow and Keras are "
            f"not supported, one of {', '.join(_USABLE)} is needed"
        )


def _validated(
    package: Package, name: str, document: dict[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    try:
        library = import_module("bioimageio.spec")
    except ImportError as error:
        raise ValueError(
            "format bioimageio needs bioimageio.spec: pip install 'cte-dask[bioimageio]'"
        ) from error
    with _root(package) as root, _noted() as remarks:
        context = library.ValidationContext(
            root=root,
            file_name=PurePosixPath(name).name,
            perform_io_checks=False,  # else it would download what the description refers to
            log_warnings=False,
            progressbar=False,
        )
        description = library.build_description(document, context=context, format_version="latest")
    if isinstance(description, library.InvalidDescr):
        raise ModelError(f"{name} is not valid: {_first_errors(description)}")
    remarks += [
        f"{'.'.join(map(str, w.loc))}: {' '.join(w.msg.split())}"
        for detail in description.validation_summary.details
        for w in detail.warnings
        if "FAIR" not in w.msg  # what a zoo wants of a package says nothing of its network
    ]
    return description, tuple(dict.fromkeys(remarks))


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collect warnings in place of showing them, and keep the library's log to itself."""
    logger = import_module("loguru").logger
    remarks: list[str] = []
    names = ("bioimageio", "pydantic")  # it logs from within pydantic's calls, too
    for name in names:
        logger.disable(name)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield remarks
        remarks += [" ".join(str(w.message).split()) for w in caught]
    finally:
        for name in names:
            logger.enable(name)


@contextmanager
def _root(package: Package) -> Iterator[Path | zipfile.ZipFile]:
    if not package.is_zip:
        yield package.root.resolve()
        return
    with zipfile.ZipFile(package.path) as archive:
        yield archive


def _first_errors(description: Any) -> str:
    errors = [e for detail in description.validation_summary.details for e in detail.errors]
    first = [f"{'.'.join(map(str, e.loc))}: {' '.join(e.msg.split())}" for e in errors[:3]]
    return "; ".join(first) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")
