"""Against the authors' procedure done plainly, MONAI and bioimageio.core.

    python benchmarks/peers.py [--repeats 5] [--planes 1] [--models 6]

The authors' public procedure with well-known parts: predict the target tile by tile in eager mode,
float32, with halo; write the predictions compressed into HDF5 (h5py, gzip); predict again under
spatial dropout at the bottleneck and write; read both back and score with NumPy. Ours:
`score_block` over the same zarr array, the same networks, tiles and halo. Prediction alone: one
unperturbed pass over the same planes by MONAI's `sliding_window_inference` with windows of the same
extent and overlap, by bioimageio.core's blockwise prediction of the same network with blocks of the
same extent and halo, and by ours.

All run in this process and share its settings (one thread, huge pages), which favours the peers: by
themselves they would fault their memory in page by page. Writes ``benchmarks/results/peers.json``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # bioimageio.core draws a bar for every plane

import h5py
import numpy as np
import torch
import zarr
from banks import FEATURES, HALO, write_bank
from measuring import alternated, electron_microscopy, ratio, save
from monai.inferers import sliding_window_inference
from packages import blockwise_prediction
from safetensors.torch import load_file
from torch import Tensor, nn

from cte_dask import load_bank, open_volume, resolve
from cte_dask.models.unet import UNet
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.score_block import score_block

TILE = 128
FRAME = 224  # a tile with 46 voxels a side, rounded up to what the networks take
RATE = 0.2


def networks(folder: Path) -> list[UNet]:
    made = []
    for path in sorted(folder.glob("*.safetensors")):
        network = UNet(dims=2, features=FEATURES[2])
        network.load_state_dict(load_file(path))
        made.append(network.eval().requires_grad_(False))
    return made


def tiles(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    _, height, width = shape
    for z in range(shape[0]):
        for y in range(0, height, TILE):
            for x in range(0, width, TILE):
                yield z, y, x


def predict_to_file(network: nn.Module, volume: Any, path: Path, *, perturbed: bool) -> None:
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
            probability = torch.sigmoid(network(frame))[0, 0].numpy()
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


def authors(made: list[UNet], target: Path, folder: Path) -> Callable[[], None]:
    def run() -> None:
        volume = zarr.open_array(target, mode="r")
        for network in made:
            files = folder / "reference.h5", folder / "perturbed.h5"
            for path, perturbed in zip(files, (False, True), strict=True):
                predict_to_file(network, volume, path, perturbed=perturbed)
            score_files(*files)

    return run


def ours(experiment: Any) -> Callable[[], None]:
    def run() -> None:
        for index in range(len(experiment.blocks)):
            scores = score_block(experiment, index)
            if scores.failures:
                raise RuntimeError(scores.failures)

    return run


def monai_prediction(network: nn.Module, volume: np.ndarray) -> Callable[[], Any]:
    """Windows of our frame's extent, overlapping by the halo, their middles kept by the weights."""
    images = torch.from_numpy((volume.astype(np.float32) - 100) / 100)[:, None]
    overlap = 2 * HALO[2] / FRAME

    def run() -> None:
        with torch.inference_mode():
            for image in images:
                sliding_window_inference(image[None], FRAME, 1, network, overlap=overlap)

    return run


def our_prediction(experiment: Any, volume: np.ndarray) -> Callable[[], None]:
    """The unperturbed pass of every tile, from raw intensities to probabilities."""
    ready = predictor(experiment.candidates[0], experiment.inference)
    before, extent = ready.frame.before[1:], ready.frame.extent[1:]
    rest = [e - TILE - b for b, e in zip(before, extent, strict=True)]
    padding = ((0, 0), *((b, r) for b, r in zip(before, rest, strict=True)))

    def run() -> None:
        raw = np.pad(volume.astype(np.float32), padding, "reflect")
        for number, (z, y, x) in enumerate(tiles(volume.shape)):
            frame = raw[z : z + 1, y : y + extent[0], x : x + extent[1]][None, None]
            tile = experiment.grid.tile_at(number)
            ready.run(frame, [tile], [], intensity=[experiment.intensity], seed=0)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--planes", type=int, default=1)
    parser.add_argument("--models", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    image = electron_microscopy(options.planes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zarr.create_array(folder / "target.zarr", data=image, chunks=(1, 128, 128))
        bank = load_bank(str(write_bank(folder, options.models, 2, image)))
        experiment = resolve(
            open_volume(str(folder / "target.zarr")),
            bank,
            tile=(1, TILE, TILE),
            perturbations=[f"dropout:{RATE}"],
            metrics=["nhd", "ei"],
            batch=1,
        )
        made = networks(folder)
        scoring = {
            "authors' procedure": authors(made, folder / "target.zarr", folder),
            "ours": ours(experiment),
        }
        prediction = {
            "MONAI sliding window": monai_prediction(made[0], image),
            "bioimageio.core blockwise": blockwise_prediction(
                made[0], FEATURES[2], image, folder / "package", FRAME, (FRAME - TILE) // 2
            ),
            "ours": our_prediction(experiment, image),
        }
        cases = {
            "scoring": alternated(scoring, options.repeats),
            "prediction": alternated(prediction, options.repeats),
        }
    ratios = {
        "scoring: authors' procedure / ours": ratio(cases["scoring"], "authors' procedure", "ours"),
    }
    for peer in cases["prediction"]:
        if peer != "ours":
            ratios[f"prediction: {peer} / ours"] = ratio(cases["prediction"], peer, "ours")
    what = {"models": options.models, "shape": image.shape, "tile": TILE, "perturbation": RATE}
    save("peers", {"what": what, "cases": cases, "ratios": ratios})


if __name__ == "__main__":
    main()
