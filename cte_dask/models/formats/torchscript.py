"""Loads TorchScript archives: deprecated since torch 2.11, but many published models are some."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import cast

import torch

from cte_dask.models.formats.script_archive import refuse_graphs, refuse_operators
from cte_dask.models.network import Network
from cte_dask.models.spec import ModelSpec

__all__ = ["TorchScript"]


class TorchScript:
    """Loads a TorchScript archive, after checking that all it can do is compute."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the scripted or traced network.

        Raises
        ------
        ValueError
            If the file is no TorchScript archive of this torch version, or could do more than
            compute and the bank does not trust it.
        """
        if spec.trust:
            return Network(forward=_loaded(path, str(path)), kind="script")
        # The bytes that are checked are loaded: the file cannot change in between.
        content = path.read_bytes()
        refuse_operators(content)
        module = _loaded(path, io.BytesIO(content))
        refuse_graphs(module)
        return Network(forward=module, kind="script")


def _loaded(path: Path, archive: str | io.BytesIO) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
            module = torch.jit.load(archive, map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(_why_not_loaded(path, str(error))) from error
    return cast("torch.jit.ScriptModule", module.eval())


def _why_not_loaded(path: Path, text: str) -> str:
    if "constants.pkl" in text or "code/" in text:
        return (
            f"{path.name} is not a TorchScript archive: "
            "use format state_dict for weights, torch_export for a .pt2"
        )
    return f"{path.name} is not a TorchScript archive: {text}"
