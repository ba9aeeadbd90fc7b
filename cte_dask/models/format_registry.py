"""The formats of source models, each with its loader. No torch before one is resolved."""

from __future__ import annotations

from cte_dask.registry import Registry

__all__ = ["DESCRIPTIONS", "FORMATS"]

FORMATS = Registry(
    "format",
    {
        "state_dict": "cte_dask.models.formats.state_dict:StateDict",
        "torchscript": "cte_dask.models.formats.torchscript:TorchScript",
        "torch_export": "cte_dask.models.formats.torch_export:TorchExport",
        "onnx": "cte_dask.models.formats.onnx:Onnx",
        "bioimageio": "cte_dask.models.formats.bioimageio.loader:BioImageIO",
        "pytorch3dunet": "cte_dask.models.formats.pytorch3dunet.loader:Pytorch3dUnet",
        "monai": "cte_dask.models.formats.monai_bundle.loader:MonaiBundle",
        "nnunet": "cte_dask.models.formats.nnunet.loader:NnUNet",
        "python": "cte_dask.models.formats.python:PythonFactory",
    },
)
"""Name of each format and where its loader is defined, a class that is called without arguments."""

DESCRIPTIONS = {
    "bioimageio": "cte_dask.models.formats.bioimageio.description:described_entry",
    "monai": "cte_dask.models.formats.monai_bundle.config:described_entry",
    "nnunet": "cte_dask.models.formats.nnunet.plans:described_entry",
    "pytorch3dunet": "cte_dask.models.formats.pytorch3dunet.config:described_entry",
}
"""Formats whose packages describe their models → function of (spec, path) that returns keys of a
bank's entry."""
