"""The formats a model may come in, and what a loader returns. No torch until one is resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

__all__ = ["FORMATS"]

FORMATS: dict[str, str] = {
    "state_dict": "cte_dask.models.formats.state_dict:StateDict",
    "torchscript": "cte_dask.models.formats.torchscript:TorchScript",
    "torch_export": "cte_dask.models.formats.torch_export:TorchExport",
    "onnx": "cte_dask.models.formats.onnx:Onnx",
    "bioimageio": "cte_dask.models.formats.bioimageio.loader:BioImageIO",
    "pytorch3dunet": "cte_dask.models.formats.pytorch3dunet.loader:Pytorch3dUnet",
    "python": "cte_dask.models.formats.python:PythonFactory",
}
"""Name of a format → ``module:attribute`` of its loader, a class without arguments."""
