"""Scoring from end to end against nothing but the forward passes, on data already in memory.

    python benchmarks/roofline.py [--repeats 5]

End to end: read a block of a zarr array, cut tiles, perturb, preprocess, predict, compare, write
the scores. Against it (a) the same traced passes on tensors that are ready: the same FLOPs, nothing
else; (b) the plain module in evaluation mode, channels last, one whole pass for the reference and
one a perturbation. And how much of it all is comparing predictions. Reading and writing cost the
same whatever a block holds: (a) is measured again on a block of more tiles, though far fewer than
those of a large target hold. Writes ``benchmarks/results/roofline.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import zarr
from banks import write_bank
from forward_passes import bare, plain
from measuring import RESULTS, alternated, electron_microscopy, ratio, save

from cte_dask import load_bank, open_volume, resolve
from cte_dask.arrays import LOADING_NUMBA, numba_pays
from cte_dask.perturb import draws_of
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.scoring.block_reader import read_window
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.score_block import score_block
from cte_dask.scoring.score_tiles import TileScorer
from cte_dask.scoring.tile_statistics import tile_statistics

TILE = {2: (1, 256, 256), 3: (32, 64, 64)}
FEW = {2: (4, 1, 1), 3: (1, 1, 1)}
MORE = {2: (16, 1, 1), 3: (1, 1, 2)}
"""Tiles of the block along z, y and x."""
PERTURBATIONS = ("dropout:0.2", "gaussian:0.1")


def end_to_end(experiment: Experiment, folder: Path) -> Callable[[], None]:
    store = create(str(folder / "scores.zarr"), layout_of(experiment))

    def run() -> None:
        for index in range(len(experiment.blocks)):
            scores = score_block(experiment, index)
            if scores.failures:
                raise RuntimeError(scores.failures)
            store.write(scores)

    return run


def comparing(experiment: Experiment) -> Callable[[], None]:
    """NHD and EI of every tile and draw, on predictions that are there."""
    block = experiment.blocks.block_at(0)
    scorer = TileScorer(
        experiment,
        predictor(experiment.candidates[0], experiment.inference),
        read_window(experiment, block),
    )
    tiles = list(block.tiles[:1])
    reference, *others = scorer.predict(tiles, draws_of(experiment.perturbations, 1))
    cores = [tuple(slice(0, n) for n in tile.shape) for tile in tiles]

    def run() -> None:
        for _ in range(len(experiment.grid)):
            for other in others:
                tile_statistics(reference, other, cores=cores, threshold=0.5)

    return run


def experiment_of(
    dims: int, perturbation: str, block: tuple[int, int, int], folder: Path
) -> Experiment:
    tile = TILE[dims]
    image = electron_microscopy(*(n * t for n, t in zip(block, tile, strict=True)))
    zarr.create_array(folder / "target.zarr", data=image, chunks=(16, 64, 64))
    bank = load_bank(str(write_bank(folder, 1, dims, electron_microscopy(16))))
    volume = open_volume(str(folder / "target.zarr"))
    options: Any = {"perturbations": [perturbation], "metrics": ["nhd", "ei"], "block": block}
    return resolve(volume, bank, tile=tile, **options)


def few_tiles(dims: int, perturbation: str, folder: Path, repeats: int) -> dict[str, Any]:
    experiment = experiment_of(dims, perturbation, FEW[dims], folder)
    forms = {
        "end to end": end_to_end(experiment, folder),
        "bare passes": bare(experiment),
        "plain module": plain(experiment),
        "comparing": comparing(experiment),
    }
    return {"tiles": len(experiment.grid), **alternated(forms, repeats)}


def more_tiles(dims: int, perturbation: str, folder: Path, repeats: int) -> dict[str, Any]:
    experiment = experiment_of(dims, perturbation, MORE[dims], folder)
    forms = {"end to end": end_to_end(experiment, folder), "bare passes": bare(experiment)}
    return {"tiles": len(experiment.grid), **alternated(forms, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dims", type=int, choices=TILE, help="keep the record of the others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numba_pays(LOADING_NUMBA)  # as in a run of more than some tiles
    cases, ratios = {}, {}
    if options.dims and (path := RESULTS / "roofline.json").is_file():
        before = json.loads(path.read_text())
        cases, ratios = before["cases"], before["ratios"]
    chosen = [options.dims] if options.dims else TILE
    for dims, perturbation in itertools.product(chosen, PERTURBATIONS):
        name = f"{dims}D {perturbation}"
        with tempfile.TemporaryDirectory() as folder:
            cases[name] = few_tiles(dims, perturbation, Path(folder), options.repeats)
        for form in ("bare passes", "plain module"):
            ratios[f"{name}: {form} / end to end"] = ratio(cases[name], form, "end to end")
        # too short for the clock of the processor
        share = ratio(cases[name], "comparing", "end to end", "wall_s")
        ratios[f"{name}: comparing / end to end"] = share
        more = f"{name}, {math.prod(MORE[dims])} tiles a block"
        with tempfile.TemporaryDirectory() as folder:
            cases[more] = more_tiles(dims, perturbation, Path(folder), options.repeats)
        ratios[f"{more}: bare passes / end to end"] = ratio(
            cases[more], "bare passes", "end to end"
        )
    save("roofline", {"cases": cases, "ratios": ratios})


if __name__ == "__main__":
    main()
