"""The blocks of an evaluation that are done, kept beside the run until all of them are.

What died (a worker, a scheduler, the command itself) costs the blocks in flight, no other: the same
command goes on. Nothing here is pickled, so that a run from elsewhere can be evaluated.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import fsspec
import numpy as np

from cte_dask.evaluation.comparators.ccfv import TileFeatures
from cte_dask.evaluation.evaluate_block import BlockEvaluation
from cte_dask.storage.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Parts", "parts_key"]

ARRAYS = ("tiles", "labelled", "values")
MAPPINGS = ("failures", "unreached")


def parts_key(*descriptions: Any) -> str:
    """Return a name for what decides the numbers of an evaluation, from plain data."""
    text = json.dumps(descriptions, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Parts:
    """Done blocks in a folder of their own.

    Parameters
    ----------
    url
        Folder or URL; made with the first block.
    """

    url: str

    def read(self, block: int) -> BlockEvaluation | None:
        """Return a block that is done; None if it is not there, or is damaged."""
        with (
            suppress(OSError, EOFError, ValueError, KeyError, BadZipFile),
            self._open(block) as file,
        ):
            return _unpacked(np.load(io.BytesIO(file.read()), allow_pickle=False))
        return None

    def write(self, block: int, evaluation: BlockEvaluation) -> None:
        """Keep a block, whole or not at all."""
        filesystem, folder = fsspec.core.url_to_fs(self.url)
        filesystem.makedirs(folder, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **_packed(evaluation))  # type: ignore[arg-type]
        with replacing(f"{self.url}/{block}.npz", "wb") as file:
            file.write(buffer.getvalue())

    def clear(self) -> None:
        """Remove all blocks: the evaluation is written."""
        filesystem, folder = fsspec.core.url_to_fs(self.url)
        with suppress(FileNotFoundError):
            filesystem.rm(folder, recursive=True)

    def _open(self, block: int) -> Any:
        return fsspec.open(f"{self.url}/{block}.npz", "rb")


def _packed(evaluation: BlockEvaluation) -> dict[str, np.ndarray[Any, Any]]:
    """Return an evaluation as arrays; of the features one entry a model, tile and layer."""
    arrays = {name: getattr(evaluation, name) for name in ARRAYS}
    names: list[list[Any]] = []
    for (model, tile), layers in evaluation.features.items():
        for layer, features in enumerate(layers):
            for field, value in zip(
                ("mean", "covariance", "variety"), astuple(features), strict=True
            ):
                arrays[f"{len(names)}-{field}"] = np.asarray(value)
            names.append([model, int(tile), layer])
    text = {name: getattr(evaluation, name) for name in MAPPINGS}
    arrays["text"] = np.array(json.dumps({**text, "features": names}))
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray[Any, Any]]) -> BlockEvaluation:
    text = json.loads(str(arrays["text"]))
    features: dict[tuple[str, int], tuple[TileFeatures, ...]] = {}
    for number, (model, tile, _) in enumerate(text["features"]):
        features[model, tile] = (*features.get((model, tile), ()), _layer(arrays, number))
    tiles, labelled, values = (arrays[name] for name in ARRAYS)
    failures, unreached = (text[name] for name in MAPPINGS)
    return BlockEvaluation(tiles, labelled, values, features, failures, unreached)


def _layer(arrays: Mapping[str, np.ndarray[Any, Any]], number: int) -> TileFeatures:
    mean, covariance, variety = (arrays[f"{number}-{f}"] for f in ("mean", "covariance", "variety"))
    return TileFeatures(mean, covariance, float(variety))
