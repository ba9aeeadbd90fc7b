"""Peak memory of a real worker on a gigabyte and on a (sparse) terabyte, beside what was planned.

    python benchmarks/memory.py

A worker process of Dask scores some blocks of each target with a bank of two small U-Nets; its peak
of resident memory is read from the system (VmHWM). The targets hold voxels in the blocks that are
scored and are omitted elsewhere. Writes ``benchmarks/results/memory.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "memory.json"
EDGES = {"gigabyte": 1024, "terabyte": 10240}
TILE = (1, 256, 256)
CORNER = "0:64,0:1024,0:1024"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=2, help="of each target")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1], options.blocks)))
        return
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_bank(Path(folder))
        for name, edge in EDGES.items():
            write_target(Path(folder) / f"{name}.zarr", edge)
            record[name] = {**in_process(folder, name, "plan", 0)}
            record[name] |= in_process(folder, name, "score", options.blocks)
            record[name]["measured_over_planned"] = round(
                record[name]["measured"] / record[name]["planned"], 3
            )
    both = [record[name]["measured"] for name in EDGES]
    record["terabyte_over_gigabyte"] = round(both[1] / both[0], 3)
    print(json.dumps(record, indent=1))
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def in_process(folder: str, name: str, what: str, blocks: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", f"{folder}/{name}.zarr", what]
    done = subprocess.run(
        [*command, "--blocks", str(blocks)], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout))


def measure(target: str, what: str, blocks: int) -> dict[str, Any]:
    from cte_dask.engine.cost import plan
    from cte_dask.models import load_bank
    from cte_dask.scoring.resolve import resolve
    from cte_dask.volume import open_volume

    bank = load_bank(str(Path(target).parent / "bank.yaml"))
    volume = open_volume(target, roi=None)
    if what == "plan":
        experiment = resolve(volume, bank, tile=TILE, workers=2, sample=False)
        planned = plan(experiment)
        return {"planned": planned.bytes_worker, "blocks": planned.blocks}
    experiment = resolve(volume, bank, tile=TILE, workers=2, sample=False)
    # a sample of the whole would draw omitted chunks alone: that of the corner with voxels
    corner = resolve(open_volume(target, roi=CORNER), bank, tile=TILE, workers=2)
    experiment = replace(experiment, intensity=corner.intensity)
    return {"scored": blocks, "measured": _peak_of_a_worker(experiment, blocks)}


def _peak_of_a_worker(experiment: Any, blocks: int) -> int:
    from cte_dask.engine.checkpoint import Checkpoint
    from cte_dask.engine.clusters import open_cluster
    from cte_dask.engine.dask_runner import run_jobs
    from cte_dask.engine.jobs import Job, Listed
    from cte_dask.inference.memory import peak_memory
    from cte_dask.results.layout import layout_of
    from cte_dask.results.new_store import create

    with (
        tempfile.TemporaryDirectory() as folder,
        open_cluster("local", workers=1, threads=1) as client,
    ):
        url = f"{folder}/scores.zarr"
        scores = create(url, layout_of(experiment))
        jobs = [Job(i) for i in range(blocks)]  # from the first: there the target holds voxels
        run_jobs(Checkpoint(experiment, url), Listed(jobs), client=client)
        assert not any(scores.failures(i) for i in range(blocks))
        [(host, _)] = client.run(peak_memory, "cpu").values()
    return int(host)


def write_target(path: Path, edge: int) -> None:
    """Write a cube that holds voxels in a corner and along its first rows of chunks."""
    import zarr

    array = zarr.create_array(path, shape=(edge,) * 3, chunks=(64, 128, 128), dtype="uint8")
    random = np.random.default_rng(0)
    array[:64, :1024, :1024] = random.integers(0, 255, (64, 1024, 1024), np.uint8)


def write_bank(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from cte_dask.models.unet import UNet

    entries = []
    for name in ("one", "two"):
        torch.manual_seed(len(entries))
        save_file(UNet(dims=2, features=(4, 8)).state_dict(), folder / f"{name}.safetensors")
        entries.append(
            f"  {name}: {{format: state_dict, source: {name}.safetensors, "
            "architecture: 'cte_dask.models.unet:UNet', arguments: {dims: 2, features: [4, 8]}, "
            "axes: yx, halo: {y: 8, x: 8}, multiple: {y: 2, x: 2}, preprocessing: "
            "[{name: scale_range, kwargs: {min_percentile: 1, max_percentile: 99.8}, "
            "scope: volume}], "
            "output: {channel: 0, activation: sigmoid, threshold: 0.5}}"
        )
    (folder / "bank.yaml").write_text("schema: cte-bank/1\nmodels:\n" + "\n".join(entries) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
