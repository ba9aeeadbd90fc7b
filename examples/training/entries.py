"""Entries of a bank file for the networks that the recipes train."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import yaml

from .fit import THRESHOLD
from .packs import HIGH, LOW, sha256

PREPROCESSING = {
    "name": "scale_range",
    "kwargs": {"min_percentile": LOW, "max_percentile": HIGH},
    "scope": "volume",
}


def entry(
    weights: Path,
    arguments: Mapping[str, object],
    *,
    source: str | None = None,
    halo: int = 32,
    voxel_nm: float | None = None,
) -> dict[str, object]:
    """Return the entry of one model.

    Parameters
    ----------
    weights
        The file of its weights.
    arguments
        Of :class:`cte_dask.models.unet.UNet`, beyond ``dims``.
    source
        What the bank file calls the weights; None: the name of their file.
    halo
        Pixels of context along y and x.
    voxel_nm
        Size of a pixel that the model was trained on, in nanometre; None: not declared.
    """
    made: dict[str, object] = {
        "format": "state_dict",
        "source": source or weights.name,
        "sha256": sha256(weights),
        "architecture": "cte_dask.models.unet:UNet",
        "arguments": {"dims": 2, **arguments},
        "axes": "yx",
        "halo": {"y": halo, "x": halo},
        "preprocessing": [copy.deepcopy(PREPROCESSING)],  # a shared one would become an alias
        "output": {"channel": 0, "activation": "sigmoid", "threshold": THRESHOLD},
    }
    if voxel_nm is not None:
        made["voxel_size"] = {"y": voxel_nm, "x": voxel_nm, "unit": "nanometer"}
    return made


def bank_text(models: Mapping[str, Mapping[str, object]]) -> str:
    """Return the text of the bank file that holds these entries."""
    document = {"schema": "cte-bank/1", "models": dict(models)}
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)
