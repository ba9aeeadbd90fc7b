"""Loads TorchScript archives: deprecated since torch 2.11, but many published models are some."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cte_dask.models.network import Network
from cte_dask.models.spec import ModelSpec

__all__ = ["TorchScript"]


class TorchScript:
    """Loads a TorchScript archive, written in a restricted language and read without pickle."""

    def load(self, spec: ModelSpec, path: Path) -> Network:
        """Return the scripted or traced network.

        Raises
        ------
        ValueError
            If the file is no TorchScript archive of this torch version.
        """
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
                module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ValueError(_why_not_loaded(path, str(error))) from error
        return Network(forward=module.eval(), kind="script")


def _why_not_loaded(path: Path, text: str) -> str:
    if "constants.pkl" in text or "code/" in text:
        return (
            f"{path.name} is not a TorchScript archive: "
            "use format state_dict for weights, torch_export for a .pt2"
        )
    return f"{path.name} is not a TorchScript archive: {text}"
