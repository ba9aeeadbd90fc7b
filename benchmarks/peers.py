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
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # bioimageio.core draws a bar for every plane

import numpy as np
import torch
import zarr
from authors import FRAME, RATE, TILE, authors, networks, tiles
from banks import FEATURES, HALO, write_bank
from forward_passes import scored
from measuring import alternated, electron_microscopy, ratio, save
from monai.inferers import sliding_window_inference
from packages import blockwise_prediction
from torch import nn

from cte_dask import load_bank, open_volume, resolve
from cte_dask.scoring.loaded import predictor


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

        def opened() -> Any:
            return zarr.open_array(folder / "target.zarr", mode="r")

        scoring = {
            "authors' procedure": authors(made, opened, folder),
            "ours": scored(experiment),
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
