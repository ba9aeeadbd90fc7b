"""Train the banks of the paper's experiment.

    python benchmarks/paper/train.py --cache DIR [--quick] [--jobs 2]

A model that lies in the cache with the record of the same recipe is not trained again. Weights and
records are written under another name and renamed, so a run that is cut off leaves none half done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes import FULL_RUNS, QUICK_RUNS, REPOSITORY, Run, banks
from safetensors.torch import load_file, save
from training.entries import bank_text, entry
from training.fit import Weights, build, f1, fit, predict
from training.packs import Pack, read_pack, rescaled, sha256

DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
CACHE = Path("~/.cache/cte_dask/paper")
SHIPPED = REPOSITORY / "cte_dask" / "demo" / "bank"
TEST_IMAGES = 12
# Four levels of two 3 x 3 convolutions see 46 pixels each way (cte_dask.inference.probe measures as
# many); the next multiple of the pooling. Group normalisation sees its whole input besides.
HALO = 48


def train_banks(
    cache: Path, quick: bool = False, *, data: Path = DATA, jobs: int = 1
) -> dict[str, Path]:
    """Train what the cache lacks; return the bank file of every bank."""
    runs, folder = (QUICK_RUNS, cache / "quick") if quick else (FULL_RUNS, cache)
    train(runs, folder, data=data, jobs=jobs)
    return write_banks(runs, folder)


def train(runs: tuple[Run, ...], folder: Path, *, data: Path, jobs: int = 1) -> None:
    """Do the runs that the folder lacks, those that start from others after them."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    digests = _digests(runs, data)
    missing = [run for run in runs if not _is_done(run, folder, digests[run.name])]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are in {folder}", flush=True)
    progress = _Progress(missing)
    for group in (
        [run for run in missing if run.start is None],
        [run for run in missing if run.start is not None],
    ):
        for run, seconds in _in_processes(group, folder, data, digests, jobs):
            progress.tell(run, seconds)


def train_one(run: Run, folder: Path, data: Path, digest: str) -> float:
    """Do one run and write its models; return the seconds it took."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    trained = _trained(run, folder, data)
    test = rescaled(read_pack(_file(data, run.recipe.pack), split="test"), run.scale)
    chosen = np.unique(np.linspace(0, len(test.images) - 1, TEST_IMAGES).round().astype(int))
    test = Pack(test.images[chosen], test.masks[chosen])
    for name, weights in trained.items():
        score = f1(build(run.recipe, weights=weights), test)
        _write(_weights(folder, name), save(weights, metadata={"format": "pt"}))
        record = _record(run, name, digest, score, time.monotonic() - begun)
        record["sha256"] = sha256(_weights(folder, name))
        _write(folder / "models" / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
    return time.monotonic() - begun


def write_banks(runs: tuple[Run, ...], folder: Path) -> dict[str, Path]:
    """Write the bank files and, beside each, the record of its models."""
    maker = {name: run for run in runs for name in run.models}
    files = {}
    for bank, names in banks(runs).items():
        (folder / bank).mkdir(exist_ok=True)
        models = {name: _entry(maker[name], folder, name) for name in names}
        files[bank] = folder / bank / "bank.yaml"
        _write(files[bank], bank_text(models).encode())
        records = {
            name: {**_read_record(folder, name), **_seen(maker[name], maker)} for name in names
        }
        _write(folder / bank / "training.json", (json.dumps(records, indent=1) + "\n").encode())
    return files


def _trained(run: Run, folder: Path, data: Path) -> dict[str, Weights]:
    if run.shipped:
        return {run.name: load_file(SHIPPED / f"{run.name}.safetensors")}
    start = None if run.start is None else load_file(_weights(folder, run.start))
    return fit(
        run.recipe,
        _pack(run, data, start),
        steps=run.steps,
        seed=run.seed,
        start=start,
        tell=lambda line: print(f"{run.name}{line}", flush=True),
    )


def _pack(run: Run, data: Path, start: Weights | None) -> Pack:
    pack = rescaled(read_pack(_file(data, run.recipe.pack), split="train"), run.scale)
    if run.images is not None:
        drawn = np.random.default_rng(run.seed).permutation(len(pack.images))[: run.images]
        pack = Pack(pack.images[drawn], pack.masks[drawn])
    if not run.own_labels:
        return pack
    network = build(run.recipe, weights=start).eval()
    return Pack(pack.images, np.stack([predict(network, image) for image in pack.images]))


def _seen(run: Run, maker: dict[str, Run]) -> dict[str, list[str]]:
    """Return the packs whose labels, and whose images, went into a model."""
    before = {} if run.start is None else _seen(maker[run.start], maker)
    labels = [] if run.own_labels else [run.recipe.pack]
    return {
        "labels_seen": [*before.get("labels_seen", []), *labels],
        "images_seen": [*before.get("images_seen", []), run.recipe.pack],
    }


def _entry(run: Run, folder: Path, name: str) -> dict[str, object]:
    return entry(
        _weights(folder, name),
        run.recipe.arguments,
        source=f"../models/{name}.safetensors",
        halo=HALO,
        voxel_nm=run.voxel_nm,
    )


def _record(run: Run, name: str, digest: str, score: float, seconds: float) -> dict[str, Any]:
    fraction = dict(run.recipe.early).get(name, 1.0)
    return {
        "model": name,
        "run": run.name,
        "digest": digest,
        "source_domain": run.recipe.pack,
        "started_from": run.start,
        "own_labels": run.own_labels,
        "shipped": run.shipped,
        "steps": round(run.steps * fraction),
        "steps_of_the_run": run.steps,
        "seed": run.seed,
        "in_domain_f1": round(score, 4),
        "in_domain_images": TEST_IMAGES,
        "seconds": round(seconds, 1),
        "recipe": asdict(run.recipe),
        "scale": run.scale,
        "images": run.images,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _digests(runs: tuple[Run, ...], data: Path) -> dict[str, str]:
    packs = {pack: sha256(_file(data, pack)) for pack in {run.recipe.pack for run in runs}}
    digests: dict[str, str] = {}
    for run in runs:  # those that start from others stand after them
        start = None if run.start is None else digests[run.start]
        if run.shipped:
            start = sha256(SHIPPED / f"{run.name}.safetensors")
        digests[run.name] = run.digest(packs[run.recipe.pack], start)
    return digests


def _is_done(run: Run, folder: Path, digest: str) -> bool:
    return all(
        _weights(folder, name).exists() and _read_record(folder, name).get("digest") == digest
        for name in run.models
    )


def _read_record(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "models" / f"{name}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return record


def _in_processes(
    runs: list[Run], folder: Path, data: Path, digests: dict[str, str], jobs: int
) -> Iterator[tuple[Run, float]]:
    if jobs == 1:
        for run in runs:
            yield run, train_one(run, folder, data, digests[run.name])
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        open_: dict[Future[float], Run] = {
            pool.submit(train_one, run, folder, data, digests[run.name]): run for run in runs
        }
        while open_:
            for future in wait(open_, return_when=FIRST_COMPLETED).done:
                yield open_.pop(future), future.result()


class _Progress:
    """Say what is done and when the rest will be."""

    def __init__(self, runs: list[Run]) -> None:
        self.total = sum(run.cost for run in runs)
        self.done, self.finished, self.runs = 0.0, 0, len(runs)
        self.begun = time.monotonic()

    def tell(self, run: Run, seconds: float) -> None:
        self.done += run.cost
        self.finished += 1
        left = (time.monotonic() - self.begun) * (self.total / max(self.done, 1) - 1)
        where = f"{self.finished}/{self.runs}"
        print(f"{where} {run.name}: {seconds:.0f} s; {left / 60:.0f} min left", flush=True)


def _weights(folder: Path, name: str) -> Path:
    return folder / "models" / f"{name}.safetensors"


def _write(path: Path, content: bytes) -> None:
    written = path.with_name(f"{path.name}.{os.getpid()}.part")
    written.write_bytes(content)
    written.replace(path)


def _file(data: Path, pack: str) -> Path:
    path = data / f"{pack}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: name the folder of the packs with --data")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the weights")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the packs")
    parser.add_argument("--quick", action="store_true", help="a few short runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    options = parser.parse_args()
    cache = options.cache.expanduser()
    for bank, file in train_banks(
        cache, options.quick, data=options.data, jobs=options.jobs
    ).items():
        print(f"{bank}: {file}")


if __name__ == "__main__":
    sys.exit(main())
