"""BioImage.IO packages: the weights that can be used best, in the axes the bank knows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from cte_dask.models.described import described
from cte_dask.models.formats.bioimageio.description import Description, read_description
from cte_dask.models.formats.bioimageio.mapping import axes_of, fixed_shape
from cte_dask.models.formats.onnx import load_onnx
from cte_dask.models.formats.state_dict import StateDict, load_weights, read_state_dict
from cte_dask.models.formats.torchscript import TorchScript
from cte_dask.models.network import Network
from cte_dask.models.source import sha256_of
from cte_dask.models.spec import OWN, ModelSpec

__all__ = ["BioImageIO"]

_ORDER = ("pytorch_state_dict", "torchscript", "onnx")


class BioImageIO:
    """Loads ``rdf.yaml``, its folder or its archive; runs its code only where it is trusted."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network of the package, for arrays (N, C, [z,] y, x).

        Raises
        ------
        ValueError
            If the description is invalid or asks for what is not there, a file is missing or has
            another digest, or nothing can be loaded without trust.
        """
        described(spec, path)  # refuses what cannot be honoured, whoever loads it
        found = read_description(path)
        kind = _chosen(spec, found.model.weights)
        network = _loaded(spec, found, kind)
        return _in_our_axes(spec, found, network, f"BioImage.IO weights: {kind}")


def _chosen(spec: ModelSpec, weights: Any) -> str:
    wanted = spec.arguments.get("weights") if spec.architecture is None else None
    there = [kind for kind in _ORDER if getattr(weights, kind) is not None]
    if wanted is not None and wanted not in there:
        raise ValueError(f"arguments.weights {wanted!r} is not one of {', '.join(there)}")
    usable = [k for k in there if k != _ORDER[0] or _may_build(spec, weights.pytorch_state_dict)]
    for kind in there if wanted is None else (str(wanted),):
        if kind in usable:
            return kind
    name = _reference(weights.pytorch_state_dict.architecture)
    raise ValueError(f"its architecture {name} runs code outside cte_dask: it needs trust: true")


def _may_build(spec: ModelSpec, entry: Any) -> bool:
    if spec.trust or spec.architecture is not None:
        return True
    return str(getattr(entry.architecture, "import_from", "")).startswith(OWN)


def _reference(architecture: Any) -> str:
    where = getattr(architecture, "import_from", None) or architecture.source
    return f"{where}:{architecture.callable}"


def _loaded(spec: ModelSpec, found: Description, kind: str) -> Network:
    entry = getattr(found.model.weights, kind)
    external = getattr(entry, "external_data", None)
    wanted = [entry] if external is None else [entry, external]
    with found.package.files(*(_file_name(e) for e in wanted)) as paths:
        for path, each in zip(paths, wanted, strict=True):
            _verify(spec, found, path, each)
        if kind == "torchscript":
            return TorchScript().load(spec, paths[0])
        if kind == "onnx":
            return load_onnx(paths[0], external=external is not None)
        return _built(spec, found, entry, paths[0])


def _file_name(entry: Any) -> str:
    name = str(entry.source)
    if "://" in name:
        raise ValueError(f"its file lies at {name}: download the whole package (.zip)")
    return name


def _verify(spec: ModelSpec, found: Description, path: Path, entry: Any) -> None:
    if entry.sha256 is not None:
        actual = sha256_of(path)
        if actual != str(entry.sha256):
            raise ValueError(f"sha256 of {path.name} is {actual}, the package says {entry.sha256}")
    elif found.package.path.is_file() and not found.package.is_zip:
        # The bank pins the description alone: what it does not pin could change unnoticed.
        raise ValueError(
            f"the package gives no sha256 of {path.name}: give its folder or zip as source"
        )


def _built(spec: ModelSpec, found: Description, entry: Any, weights: Path) -> Network:
    architecture = entry.architecture
    if spec.architecture is None and not hasattr(architecture, "import_from"):
        return _from_code(found, architecture, weights)
    keys = {"architecture": spec.architecture, "arguments": spec.arguments}
    if spec.architecture is None:
        keys = {"architecture": _reference(architecture), "arguments": architecture.kwargs}
    inner = ModelSpec.model_validate(
        {"name": spec.name, "format": "state_dict", "source": str(weights), "trust": spec.trust}
        | keys
    )
    return StateDict().load(inner, weights)


def _from_code(found: Description, architecture: Any, weights: Path) -> Network:
    """Run the package's own code: only trusted packages come here."""
    if architecture.sha256 is None:
        raise ValueError(f"the package gives no sha256 of its code {architecture.source}")
    with found.package.files(_file_name(architecture)) as (path,):
        actual = sha256_of(path)
        if actual != str(architecture.sha256):
            raise ValueError(f"sha256 of {path.name} is {actual}, the package says another")
        # Not imported: that would leave a compiled copy in the package and change its digest.
        module = ModuleType(f"cte_dask_package_{actual[:16]}")
        sys.modules[module.__name__] = module
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102
    with torch.random.fork_rng(devices=[]):
        factory = cast("Callable[..., Any]", getattr(module, str(architecture.callable)))
        network = factory(**architecture.kwargs)
    if not isinstance(network, nn.Module):
        raise TypeError(f"{architecture.callable} gives no torch.nn.Module")
    load_weights(network, read_state_dict(weights))
    return Network(forward=network, kind="module")


def _in_our_axes(spec: ModelSpec, found: Description, network: Network, note: str) -> Network:
    outputs = found.model.outputs
    theirs = axes_of(found.image)
    ours = ("batch", "channel", *(a for a in "zyx" if a in theirs))
    given = {str(tensor.id): axes_of(tensor) for tensor in outputs}
    if theirs != ours or any(axes != ours for axes in given.values()) or len(given) > 1:
        network = dataclasses.replace(
            network, forward=_Turned(network.forward, ours, theirs, given)
        )
    shape = _fixed(spec, found, network.fixed_shape)
    notes = (*network.notes, note)
    return dataclasses.replace(network, notes=notes, fixed_shape=shape if any(shape) else None)


def _fixed(
    spec: ModelSpec, found: Description, network: tuple[int | None, ...] | None
) -> tuple[int | None, ...]:
    """Return the only extents accepted: by the description, and by the network itself."""
    theirs = axes_of(found.image)
    said = {axis: n for axis, n in fixed_shape(found.image).items() if axis != "channel"}
    if spec.multiple is not None and any(said.get(a, m) != m for a, m in spec.multiple.items()):
        said = {}  # the bank knows better
    own = dict(zip(theirs, network or (), strict=False))
    ours = ("batch", "channel", *(a for a in "zyx" if a in theirs))
    return tuple(own.get(axis) or said.get(axis) for axis in ours)


class _Turned(nn.Module):
    """A network whose tensors have their axes in another order, or lack batch or channel."""

    def __init__(
        self,
        network: nn.Module,
        ours: Sequence[str],
        theirs: Sequence[str],
        outputs: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__()
        self.network = network
        self.ours, self.theirs, self.outputs = tuple(ours), tuple(theirs), dict(outputs)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the only output, or all by name, in our axes."""
        if "batch" in self.theirs:
            parts = [self._run(x)]
        else:
            parts = [self._run(sample[None]) for sample in x]
        joined = {name: torch.cat([p[name] for p in parts]) for name in self.outputs}
        return joined if len(joined) > 1 else next(iter(joined.values()))

    def _run(self, x: Tensor) -> dict[str, Tensor]:
        for place in (1, 0):  # from the last, so that places stay what they are
            if self.ours[place] not in self.theirs:
                x = x.squeeze(place)
        left = [axis for axis in self.ours if axis in self.theirs]
        given = self.network(x.permute([left.index(axis) for axis in self.theirs]).contiguous())
        if isinstance(given, Mapping):
            given = tuple(given.values())
        tensors = given if isinstance(given, list | tuple) else (given,)
        pairs = zip(self.outputs.items(), tensors, strict=True)
        return {name: self._back(tensor, axes) for (name, axes), tensor in pairs}

    def _back(self, y: Tensor, axes: Sequence[str]) -> Tensor:
        left = [axis for axis in self.ours if axis in axes]
        y = y.permute([axes.index(axis) for axis in left])
        for place, axis in enumerate(self.ours[:2]):
            if axis not in axes:
                y = y.unsqueeze(place)
        return y
