"""What more perturbations and more scales of a model cost, in operations and in processor time.

    python benchmarks/five_perturbations.py [--repeats 5] [--tiles 4]

Of a bank of 2D U-Nets, tiles of 256 x 256 of a target in memory, from its voxels to scores. Dropout
alone against five perturbations: under dropout the decoder alone runs once more, on what the
reference's encoder gave; what changes the image needs a pass of its own. One scale against four, of
which every block is scored, as by ``--exhaustive``, beside the pixels that networks see there. The
operations of each pass are counted apart. Writes ``benchmarks/results/five-perturbations.json``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from banks import HALO, write_bank
from forward_passes import scored
from measuring import alternated, electron_microscopy, ratio, save

from cte_dask import load_bank, open_volume, resolve
from cte_dask.inference.try_out import flops_per_tile
from cte_dask.models.bank import ModelBank
from cte_dask.perturb import draws_of
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.loaded import predictor

TILE, MODELS = (1, 256, 256), 6
DROPOUT = ("dropout:0.2",)
FIVE = (*DROPOUT, "gaussian:0.1", "gamma:0.8", "mirror", "zoom:1.25")
SCALES = (0.25, 0.5, 1.0, 2.0)


def perturbed(bank: ModelBank, image: np.ndarray, repeats: int) -> dict[str, Any]:
    """Dropout alone and five perturbations: seconds of both, and the operations of each pass."""
    one, five = (settled(bank, image, perturbations=names) for names in (DROPOUT, FIVE))
    seconds = alternated({"dropout": scored(one), "five perturbations": scored(five)}, repeats)
    ready = predictor(five.candidates[0], five.inference)
    reference = flops_per_tile(ready, [])
    flops = {"reference": reference}
    for perturbation in five.perturbations:
        both = flops_per_tile(ready, draws_of([perturbation], 1))
        flops[perturbation.name] = both - reference
    totals = [flops_per_tile(ready, draws_of(e.perturbations, 1)) for e in (one, five)]
    return {
        **seconds,
        "flops_a_tile": flops,
        "flops_ratio": totals[1] / totals[0],
        "cpu_ratio": ratio(seconds, "five perturbations", "dropout"),
    }


def scaled(bank: ModelBank, image: np.ndarray, repeats: int) -> dict[str, Any]:
    """One scale and four under dropout: seconds of both, operations and pixels of each scale."""
    options = [{"scales": scales} for scales in ((1.0,), SCALES)]
    one, four = (settled(bank, image, perturbations=DROPOUT, **o) for o in options)
    seconds = alternated({"one scale": scored(one), "four scales": scored(four)}, repeats)
    draws = draws_of(four.perturbations, 1)
    first = one.candidates[0].spec.name
    ways = [c for c in four.candidates if c.spec.name == first]
    flops = {
        f"{c.variant.scale:g}": flops_per_tile(predictor(c, four.inference), draws) for c in ways
    }
    return {
        **seconds,
        "flops_a_tile": flops,
        "flops_ratio": sum(flops.values()) / flops["1"],
        "pixels_ratio": sum(scale**2 for scale in SCALES),
        "cpu_ratio": ratio(seconds, "four scales", "one scale"),
    }


def settled(bank: ModelBank, image: np.ndarray, **options: Any) -> Experiment:
    return resolve(open_volume(image), bank, tile=TILE, metrics=["nhd", "ei"], **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    planes = electron_microscopy(16)
    with tempfile.TemporaryDirectory() as folder:
        bank = load_bank(str(write_bank(Path(folder), MODELS, 2, planes)))
        image = np.ascontiguousarray(planes[: options.tiles, :256, :256])
        record = {
            "models": MODELS,
            "tiles": options.tiles,
            "halo": HALO[2],
            "perturbations": perturbed(bank, image, options.repeats),
            "scales": scaled(bank, image, options.repeats),
        }
    ratios = {
        "five perturbations / dropout": record["perturbations"]["cpu_ratio"],
        "four scales / one": record["scales"]["cpu_ratio"],
    }
    save("five-perturbations", {**record, "ratios": ratios})


if __name__ == "__main__":
    main()
