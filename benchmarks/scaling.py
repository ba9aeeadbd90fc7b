"""Two workers against one, and a bank of six against six runs of one model.

    python benchmarks/scaling.py [--repeats 5]

Workers: a run on a real local cluster (runner, scheduler over TCP, score store on disk), one thread
a worker, from the first block to the last; clusters are started before the clock, and the networks
are in the workers' memory. A bank: blocks are scored in this process, by six models at once and by
each alone; a bank reads each block once, so five readings are taken off the six runs. Writes
``benchmarks/results/scaling.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import zarr
from banks import write_bank
from measuring import RESULTS, alternated, electron_microscopy, ratio, save, spread

from cte_dask import load_bank, open_volume, resolve
from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.clusters import open_cluster
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Listed, missing_jobs
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.scoring.block_reader import read_window
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.score_block import score_block

MODELS = 6
TILE = (1, 128, 128)


def experiment_in(folder: Path, planes: int) -> Experiment:
    """Return the six models on planes of the EPFL volume, a block a plane."""
    image = electron_microscopy(planes)
    zarr.create_array(folder / "target.zarr", data=image, chunks=(1, 128, 128))
    return resolve(
        open_volume(str(folder / "target.zarr")),
        load_bank(str(write_bank(folder, MODELS, 2, image))),
        tile=TILE,
        block=(1, 3, 4),
        perturbations=["dropout:0.2"],
        metrics=["nhd", "ei"],
    )


def on_cluster(experiment: Experiment, folder: Path, client: Any) -> Callable[[], None]:
    numbers = count()

    def run() -> None:
        url = str(folder / f"scores-{id(client)}-{next(numbers)}.zarr")
        jobs = missing_jobs(create(url, layout_of(experiment)))
        run_jobs(Checkpoint(experiment, url), Listed(jobs), client=client)

    return run


def in_process(experiments: list[Experiment]) -> Callable[[], None]:
    def run() -> None:
        for experiment in experiments:
            for index in range(len(experiment.blocks)):
                if failures := score_block(experiment, index).failures:
                    raise RuntimeError(failures)

    return run


def reading(experiment: Experiment) -> Callable[[], None]:
    def run() -> None:
        for index in range(len(experiment.blocks)):
            read_window(experiment, experiment.blocks.block_at(index))

    return run


def workers(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        experiment = experiment_in(folder, options.planes)
        forms = {}
        for number in (1, 2):
            client = stack.enter_context(open_cluster("local", workers=number, threads=1))
            forms[f"{number} worker{'s' * (number > 1)}"] = on_cluster(experiment, folder, client)
        case = alternated(forms, options.repeats)
    return case, {"one worker / two workers": ratio(case, "1 worker", "2 workers", "wall_s")}


def banks(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        experiment = experiment_in(Path(name), 1)
        alone = [replace(experiment, candidates=(c,)) for c in experiment.candidates]
        forms = {
            "bank of six": in_process([experiment]),
            "six runs": in_process(alone),
            "reading": reading(experiment),
        }
        case = alternated(forms, options.repeats)
    bank, six, read = (case[form]["cpu_s"]["values"] for form in forms)
    ratios = [b / (s - (MODELS - 1) * r) for b, s, r in zip(bank, six, read, strict=True)]
    return case, {"bank of six / (six runs - five readings)": spread(ratios)}


PARTS = {"banks": banks, "workers": workers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--planes", type=int, default=8, help="blocks of the run on workers")
    parser.add_argument("--only", choices=sorted(PARTS), help="keep the other part's record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases, ratios = {}, {}
    if options.only and (path := RESULTS / "scaling.json").is_file():
        before = json.loads(path.read_text())
        cases, ratios = before["cases"], before["ratios"]
    for name in [options.only] if options.only else PARTS:
        cases[name], ratio = PARTS[name](options)
        ratios |= ratio
    what = {"models": MODELS, "tile": TILE, "planes": options.planes}
    save("scaling", {"what": what, "cases": cases, "ratios": ratios})


if __name__ == "__main__":
    main()
