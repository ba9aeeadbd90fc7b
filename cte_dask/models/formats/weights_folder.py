"""Folders of weights as Hugging Face has them: one safetensors file, or shards with an index."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from cte_dask.models.network import ModelError
from cte_dask.models.package import Package

__all__ = ["weight_files"]

_INDEX = ".safetensors.index.json"
_USUAL = "model.safetensors"


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder, all shards of one network.

    Parameters
    ----------
    folder
        Holds ``model.safetensors``, another single ``.safetensors`` file, or shards with their
        ``.safetensors.index.json``; other files are not read, ``config.json`` neither.

    Raises
    ------
    ValueError
        If there is no such file, several without an index, or the index names files that are not
        there.
    """
    package = Package(folder)
    names = [name for name in package.names() if "/" not in name]
    indices = [name for name in names if name.endswith(_INDEX)]
    files = [name for name in names if PurePosixPath(name).suffix == ".safetensors"]
    if _USUAL in files:
        files = [_USUAL]
    elif len(indices) == 1:
        files = _listed(package, indices[0])
    if len(files) != 1 and len(indices) != 1:
        raise ValueError(
            f"{folder} holds {len(files)} .safetensors files and {len(indices)} indices of shards, "
            "not one: give the file itself as source"
        )
    with package.files(*files) as paths:
        return paths


def _listed(package: Package, index: str) -> list[str]:
    try:
        document = json.loads(package.text(index))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index}: {error}") from error
    shards = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{index} has no weight_map")
    if wrong := [s for s in shards.values() if not str(s).endswith(".safetensors")]:
        raise ModelError(f"{index} names {wrong[0]!r}, no .safetensors file")
    return sorted({str(name) for name in shards.values()})
