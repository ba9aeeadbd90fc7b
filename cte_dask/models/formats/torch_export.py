"""Loads programs of ``torch.export.save``: a graph of torch operators and its weights."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from cte_dask.models.formats.pt2_archive import refuse_code
from cte_dask.models.network import Network
from cte_dask.models.spec import ModelSpec

__all__ = ["TorchExport"]


class TorchExport:
    """Loads a ``.pt2`` archive, after checking that nothing in it can run code."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the exported program as a graph module.

        Raises
        ------
        ValueError
            If the file is no exported program, was exported in training mode, or could run code
            and the bank does not trust it.
        """
        # The bytes that are checked are loaded: the file cannot change in between.
        content = path.read_bytes()
        if not content.startswith(b"PK"):
            raise ValueError(f"{path.name} is not a .pt2 archive of torch.export.save")
        if not spec.trust:
            refuse_code(content)
        program = torch.export.load(io.BytesIO(content))
        shape = _input_shape(program)
        _refuse_training(program)
        return Network(
            forward=_module(program),
            kind="graph",
            fixed_shape=shape if any(n is not None for n in shape) else None,
            notes=_notes(shape),
        )


def _module(program: ExportedProgram) -> nn.Module:
    module: nn.Module = program.module()
    for submodule in module.modules():
        submodule.training = (
            False  # its own eval() refuses; the graph is in evaluation mode already
        )
    return module


def _input_shape(program: ExportedProgram) -> tuple[int | None, ...]:
    """Return the only extents accepted (N, C, [z,] y, x), None along axes that accept several."""
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise ValueError(f"the exported program takes {len(names)} inputs, not one image")
    node = next(n for n in program.graph.nodes if n.name == names[0])
    # a free extent is a symbol (torch.SymInt), not an int
    return tuple(n if isinstance(n, int) else None for n in node.meta["val"].shape)


def _refuse_training(program: ExportedProgram) -> None:
    """Refuse graphs with batch statistics or random dropout: eval() cannot change them any more."""
    for node in program.graph.nodes:
        if node.op == "call_function" and _trains(node):
            raise ValueError(
                f"exported in training mode ({node.name}): call model.eval() before torch.export"
            )


def _trains(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    arguments = dict(zip(names, node.args, strict=False)) | node.kwargs
    # Exported instance normalisation is batch normalisation in training mode, without the buffers.
    if "running_mean" in arguments and arguments["running_mean"] is None:
        return False
    return arguments.get("training", arguments.get("train")) is True


def _notes(shape: tuple[int | None, ...]) -> tuple[str, ...]:
    fixed = ", ".join("any" if n is None else str(n) for n in (shape[0], *shape[2:]))
    if all(n is None for n in (shape[0], *shape[2:])):
        return ()
    return (f"exported for fixed input extents (batch, spatial): {fixed}",)
