"""The authors' public procedure with well-known parts, done plainly: what others are timed against.

Predict the target tile by tile in eager mode, float32, with halo; write the predictions compressed
into HDF5 (h5py, gzip); predict again under spatial dropout at the bottleneck and write; read both
back and score with NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from banks import FEATURES, HALO
from safetensors.torch import load_file
from torch import Tensor, nn

from cte_dask.models.unet import UNet

TILE = 128
FRAME = 224  # a tile with 46 voxels a side, rounded up to what the networks take
RATE = 0.2


def networks(folder: Path, device: str = "cpu") -> list[UNet]:
    """Load the networks that `banks.write_bank` wrote into a folder."""
    made = []
    for path in sorted(folder.glob("*.safetensors")):
        network = UNet(dims=2, features=FEATURES[2])
        network.load_state_dict(load_file(path))
        made.append(network.eval().requires_grad_(False).to(device))
    return made


def tiles(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield the first voxel of every tile."""
    _, height, width = shape
    for z in range(shape[0]):
        for y in range(0, height, TILE):
            for x in range(0, width, TILE):
                yield z, y, x


def predict_to_file(
    network: nn.Module, volume: Any, path: Path, *, perturbed: bool, device: str
) -> None:
    """Predict a whole target, one tile after another, into a compressed data set."""
    halo, rest = HALO[2], FRAME - TILE - HALO[2]

    def drop(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return nn.functional.dropout2d(output, RATE, training=True)

    hook = network.encoders[-1].register_forward_hook(drop) if perturbed else None
    raw = np.pad(volume[:].astype(np.float32), ((0, 0), (halo, rest), (halo, rest)), "reflect")
    raw = (raw - 100) / 100
    with h5py.File(path, "w") as file, torch.no_grad():
        chunks = (1, TILE, TILE)
        out = file.create_dataset(
            "prediction", volume.shape, np.float32, chunks=chunks, compression="gzip"
        )
        for z, y, x in tiles(volume.shape):
            frame = torch.from_numpy(raw[z, y : y + FRAME, x : x + FRAME])[None, None]
            probability = torch.sigmoid(network(frame.to(device)))[0, 0].cpu().numpy()
            out[z, y : y + TILE, x : x + TILE] = probability[halo : halo + TILE, halo : halo + TILE]
    if hook is not None:
        hook.remove()


def score_files(reference: Path, perturbed: Path) -> list[tuple[float, float]]:
    """Read two predictions back and compare them tile by tile with the formulas of the paper."""
    scores = []
    with h5py.File(reference) as a, h5py.File(perturbed) as b:
        predictions = a["prediction"][:], b["prediction"][:]
    for z, y, x in tiles(predictions[0].shape):
        p, q = (m[z, y : y + TILE, x : x + TILE] for m in predictions)
        one, two = p > 0.5, q > 0.5
        union = (one | two).sum()
        hard = 1 - (one ^ two).sum() / union if union else np.nan
        both = one & two
        soft = np.sqrt(p[both] * q[both]).sum() / union if union else np.nan
        scores.append((float(hard), float(soft)))
    return scores


def authors(
    made: list[UNet], opened: Callable[[], Any], folder: Path, device: str = "cpu"
) -> Callable[[], None]:
    """Predict twice and compare, one network after another; `opened` opens the target anew."""

    def run() -> None:
        volume = opened()
        for network in made:
            files = folder / "reference.h5", folder / "perturbed.h5"
            for path, perturbed in zip(files, (False, True), strict=True):
                predict_to_file(network, volume, path, perturbed=perturbed, device=device)
            score_files(*files)

    return run
