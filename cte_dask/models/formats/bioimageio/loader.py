"""Loads BioImage.IO packages: the best usable weights, with the axes (N, C, [z,] y, x)."""

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
from cte_dask.models.formats.bioimageio.mapping import axes_of, fixed_shape, place_of
from cte_dask.models.formats.onnx import load_onnx
from cte_dask.models.formats.state_dict import StateDict, load_weights, read_state_dict
from cte_dask.models.formats.torchscript import TorchScript
from cte_dask.models.network import Network, code_of
from cte_dask.models.source import sha256_of
from cte_dask.models.spec import OWN, ModelSpec

__all__ = ["BioImageIO"]

# best first: an ordinary module can be perturbed inside, ONNX is a black box
_ORDER = ("pytorch_state_dict", "torchscript", "onnx")


MOST_WARNINGS = 3
"""Of a description that are noted word by word."""


class BioImageIO:
    """Loads ``rdf.yaml``, its folder or its archive; runs code of a trusted package only."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the network of the package, for arrays (N, C, [z,] y, x).

        Raises
        ------
        ValueError
            If the description is invalid or not supported, a file is missing or has another digest,
            or no weights can be loaded without trust.
        """
        described(spec, path)  # raises for what a bank cannot express
        description = read_description(path)
        kind = _weights_kind(spec, description.model.weights)
        network = _loaded(spec, description, kind)
        return _in_our_axes(spec, description, network, _notes(spec, description, kind))


def _notes(spec: ModelSpec, description: Description, kind: str) -> tuple[str, ...]:
    notes = [f"BioImage.IO weights: {kind}"]
    outputs = description.model.outputs
    if len(outputs) > 1:
        names = ", ".join(str(tensor.id) for tensor in outputs)
        chosen = outputs[place_of(description.model, spec.output)].id
        notes.append(f"takes output {chosen} of {names}")
    if description.warnings:
        first, more = description.warnings[:MOST_WARNINGS], description.warnings[MOST_WARNINGS:]
        notes.append("; ".join(first) + (f"; and {len(more)} more warnings" if more else ""))
    return tuple(notes)


def _weights_kind(spec: ModelSpec, weights: Any) -> str:
    # with an architecture in the bank, the arguments are those of the architecture
    requested = spec.arguments.get("weights") if spec.architecture is None else None
    kinds = [kind for kind in _ORDER if getattr(weights, kind) is not None]
    if requested is not None and requested not in kinds:
        raise ValueError(f"arguments.weights {requested!r} is not one of {', '.join(kinds)}")
    usable = [k for k in kinds if k != _ORDER[0] or _may_build(spec, weights.pytorch_state_dict)]
    # the best kind first; a requested kind has no substitute
    for kind in kinds if requested is None else (str(requested),):
        if kind in usable:
            return kind
    name = _reference(weights.pytorch_state_dict.architecture)
    raise ValueError(f"its architecture {name} runs code outside cte_dask: it needs trust: true")


def _may_build(spec: ModelSpec, entry: Any) -> bool:
    if spec.trust or spec.architecture is not None:
        return True
    return str(getattr(entry.architecture, "import_from", "")).startswith(OWN)


def _reference(architecture: Any) -> str:
    module = getattr(architecture, "import_from", None) or architecture.source
    return f"{module}:{architecture.callable}"


def _loaded(spec: ModelSpec, description: Description, kind: str) -> Network:
    entry = getattr(description.model.weights, kind)
    external = getattr(entry, "external_data", None)
    entries = [entry] if external is None else [entry, external]
    with description.package.files(*(_file_name(e) for e in entries)) as paths:
        for path, file_entry in zip(paths, entries, strict=True):
            _verify(description, path, file_entry)
        if kind == "torchscript":
            return TorchScript().load(spec, paths[0])
        if kind == "onnx":
            return load_onnx(paths[0], external=external is not None)
        return _built(spec, description, entry, paths[0])


def _file_name(entry: Any) -> str:
    name = str(entry.source)
    if "://" in name:
        raise ValueError(f"its file lies at {name}: download the whole package (.zip)")
    return name


def _verify(description: Description, path: Path, entry: Any) -> None:
    if entry.sha256 is not None:
        actual = sha256_of(path)
        if actual != str(entry.sha256):
            raise ValueError(f"sha256 of {path.name} is {actual}, the package says {entry.sha256}")
    elif description.package.path.is_file() and not description.package.is_zip:
        # The bank's digest covers the description alone: the weights could change unnoticed.
        raise ValueError(
            f"the package gives no sha256 of {path.name}: give its folder or zip as source"
        )


def _built(spec: ModelSpec, description: Description, entry: Any, weights: Path) -> Network:
    architecture = entry.architecture
    if spec.architecture is None and not hasattr(architecture, "import_from"):
        return _from_code(description, architecture, weights)
    keys = {"architecture": spec.architecture, "arguments": spec.arguments}
    if spec.architecture is None:
        keys = {"architecture": _reference(architecture), "arguments": architecture.kwargs}
    inner = ModelSpec.model_validate(
        {"name": spec.name, "format": "state_dict", "source": str(weights), "trust": spec.trust}
        | keys
    )
    return StateDict().load(inner, weights)


def _from_code(description: Description, architecture: Any, weights: Path) -> Network:
    """Run the code of a package; `_weights_kind` lets trusted packages alone come here."""
    if architecture.sha256 is None:
        raise ValueError(f"the package gives no sha256 of its code {architecture.source}")
    with description.package.files(_file_name(architecture)) as (path,):
        actual = sha256_of(path)
        if actual != str(architecture.sha256):
            raise ValueError(f"sha256 of {path.name} is {actual}, the package says another")
        # Not imported: Python would write a compiled copy into the package, and change its digest.
        module = ModuleType(f"cte_dask_package_{actual[:16]}")
        sys.modules[module.__name__] = module
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102
    with torch.random.fork_rng(devices=[]):
        factory = cast("Callable[..., Any]", getattr(module, str(architecture.callable)))
        network = factory(**architecture.kwargs)
    if not isinstance(network, nn.Module):
        raise TypeError(f"{architecture.callable} gives no torch.nn.Module")
    load_weights(network, read_state_dict(weights))
    code = code_of(actual, str(architecture.callable), architecture.kwargs)
    return Network(forward=network, kind="module", code=code)


def _in_our_axes(
    spec: ModelSpec, description: Description, network: Network, notes: tuple[str, ...]
) -> Network:
    outputs = description.model.outputs
    theirs = axes_of(description.image)
    ours = ("batch", "channel", *(a for a in "zyx" if a in theirs))
    output_axes = {str(tensor.id): axes_of(tensor) for tensor in outputs}
    # several outputs need the adapter too, which names them
    if theirs != ours or any(axes != ours for axes in output_axes.values()) or len(output_axes) > 1:
        network = dataclasses.replace(
            network,
            forward=_AxesAdapter(network.forward, ours, theirs, output_axes),
            code=code_of(network.code, theirs, output_axes) if network.code else "",
        )
    shape = _fixed(spec, description, network.fixed_shape)
    fixed = shape if any(shape) else None
    return dataclasses.replace(network, notes=(*network.notes, *notes), fixed_shape=fixed)


def _fixed(
    spec: ModelSpec, description: Description, network: tuple[int | None, ...] | None
) -> tuple[int | None, ...]:
    """Return the only extents accepted: by the description, and by the network itself."""
    theirs = axes_of(description.image)
    fixed = {axis: n for axis, n in fixed_shape(description.image).items() if axis != "channel"}
    # a multiple in the bank that contradicts the description says that other extents work too
    if spec.multiple is not None and any(fixed.get(a, m) != m for a, m in spec.multiple.items()):
        fixed = {}
    own = dict(zip(theirs, network or (), strict=False))
    ours = ("batch", "channel", *(a for a in "zyx" if a in theirs))
    return tuple(own.get(axis) or fixed.get(axis) for axis in ours)


class _AxesAdapter(nn.Module):
    """Takes and returns tensors in our axes for a network with another order, or without some.

    Only batch and channel may be missing in the network's own axes.
    """

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
            batches = [self._run(x)]
        else:  # a network without batches runs image by image
            batches = [self._run(image[None]) for image in x]
        outputs = {name: torch.cat([batch[name] for batch in batches]) for name in self.outputs}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def _run(self, x: Tensor) -> dict[str, Tensor]:
        for position in (1, 0):  # channel before batch: dropping batch would move channel
            if self.ours[position] not in self.theirs:
                x = x.squeeze(position)
        remaining = [axis for axis in self.ours if axis in self.theirs]
        # permute takes, for each axis of the network, its position in x
        x = x.permute([remaining.index(axis) for axis in self.theirs])
        output = self.network(x.contiguous())
        if isinstance(output, Mapping):
            output = tuple(output.values())
        tensors = output if isinstance(output, list | tuple) else (output,)
        if len(tensors) != len(self.outputs):
            raise ValueError(
                f"the network gives {len(tensors)} outputs, its description names "
                f"{', '.join(self.outputs)}"
            )
        pairs = zip(self.outputs.items(), tensors, strict=True)
        return {name: self._back(tensor, axes) for (name, axes), tensor in pairs}

    def _back(self, y: Tensor, axes: Sequence[str]) -> Tensor:
        y = y.permute([axes.index(axis) for axis in self.ours if axis in axes])
        for position, axis in enumerate(self.ours[:2]):
            if axis not in axes:
                y = y.unsqueeze(position)
        return y
