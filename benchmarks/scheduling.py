"""What the scheduler costs: blocks that sleep, on many workers of this machine.

    python benchmarks/scheduling.py [--only NAME]…

Everything but the computing is real: the runner, its window, Dask's scheduler over TCP, the score
store on disk. Libraries are loaded before the clock. Three runs, one record in
``benchmarks/results/scheduling.json``:

* ``overhead``: of a run of 2,000 blocks of 1 s on 4 workers, how much of the workers' time passes
  between tasks. A task's own time (reading the mark, sleeping, writing the block) is not counted.
* ``together``: the same on 16 workers that fall asleep and wake at once, the worst case: sixteen
  tasks wait for one scheduler.
* ``many``: 256 workers (threads of a few processes; a sleeping block needs no core), blocks of
  20 s: the ideal time, blocks x 20 s / 256, over the time of the run. All wake at once here too,
  and two cores write what 256 workers made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "scheduling.json"
BANK = """\
schema: cte-bank/1
models:
  one:
    format: state_dict
    source: one.safetensors
    architecture: cte_dask.models.unet:UNet
    arguments: {dims: 2, features: [2, 4]}
    axes: yx
    halo: {y: 0, x: 0}
    multiple: {y: 2, x: 2}
    output: {channel: 0, activation: sigmoid, threshold: 0.5}
"""


RUNS: dict[str, dict[str, Any]] = {
    "overhead": {"blocks": 2000, "seconds": 1.0, "processes": 2, "threads": 2},
    "together": {"blocks": 2000, "seconds": 1.0, "processes": 2, "threads": 8},
    "many": {"blocks": 1024, "seconds": 20.0, "processes": 8, "threads": 32},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=RUNS, action="append", help="keep the others' records")
    only = parser.parse_args().only
    record = json.loads(RESULTS.read_text()) if only and RESULTS.is_file() else {}
    record |= {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": _versions(),
    }
    for name in only or RUNS:
        load = round(os.getloadavg()[0], 1)
        record[name] = {**measure(**RUNS[name]), "load_before": load}
        print(name, json.dumps(record[name], indent=1), flush=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def measure(*, blocks: int, seconds: float, processes: int, threads: int) -> dict[str, Any]:
    """Run blocks that sleep; return the time it took and where it went."""
    from cte_dask.engine.checkpoint import Checkpoint
    from cte_dask.engine.dask_runner import run_jobs
    from cte_dask.engine.jobs import Listed, missing_jobs
    from cte_dask.results.layout import layout_of
    from cte_dask.results.new_store import create

    workers = processes * threads
    with tempfile.TemporaryDirectory() as folder, cluster(processes, threads) as client:
        experiment = sleeping_experiment(Path(folder), blocks)
        url = f"{folder}/scores.zarr"
        scores = create(url, layout_of(experiment))
        import dask.array  # noqa: F401 - as in the workers

        client.run(fall_asleep, seconds)
        began, cpu = time.perf_counter(), time.process_time()
        run_jobs(Checkpoint(experiment, url), Listed(missing_jobs(scores)), client=client)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        busy = sum(client.run(time_in_tasks).values())
        assert not len(scores.missing())
    return {
        "blocks": blocks,
        "seconds_each": seconds,
        "workers": workers,
        "wall_s": round(wall, 2),
        "ideal_s": blocks * seconds / workers,
        "of_ideal": round(blocks * seconds / workers / wall, 4),
        "idle_between_tasks": round(1 - busy / (workers * wall), 4),
        "scheduler_and_client_cpu_s": round(cpu, 2),
        "cpu_ms_a_block": round(1000 * cpu / blocks, 2),
        "cpu_by_time_of_workers": round(cpu / (blocks * seconds), 5),
    }


@contextmanager
def cluster(processes: int, threads: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    from cte_dask.engine.clusters.connection import SETTINGS
    from cte_dask.inference.forked import process_environment

    settings = {**SETTINGS, "distributed.nanny.pre-spawn-environ": process_environment(1)}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=processes,
            threads_per_worker=threads,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=40,
        ) as local,
        Client(local) as client,
    ):
        yield client


def sleeping_experiment(folder: Path, blocks: int) -> Any:
    """Return an experiment of so many blocks, each of one small tile."""
    import torch
    from safetensors.torch import save_file

    from cte_dask.models import load_bank
    from cte_dask.models.unet import UNet
    from cte_dask.scoring.resolve import resolve
    from cte_dask.volume import open_volume, write_ome_zarr

    torch.manual_seed(0)
    save_file(UNet(dims=2, features=(2, 4)).state_dict(), folder / "one.safetensors")
    (folder / "bank.yaml").write_text(BANK)
    image = np.random.default_rng(0).integers(0, 255, (blocks, 16, 16)).astype(np.uint8)
    write_ome_zarr(
        folder / "t.zarr", image, axes="zyx", voxel_size_nm=(1.0, 1.0, 1.0), chunks=(64, 16, 16)
    )
    options = {"tile": (1, 16, 16), "block": (1, 1, 1), "perturbations": ("gaussian:0.1",)}
    bank = load_bank(str(folder / "bank.yaml"))
    return resolve(open_volume(str(folder / "t.zarr")), bank, **options)


def fall_asleep(seconds: float) -> None:
    """In a worker: let blocks sleep in place of being computed, and note how long tasks take."""
    # what a worker loads with its first block, once: two cores load it for 256 workers here
    import dask.array  # noqa: F401
    import zarr  # noqa: F401

    from cte_dask import models, volume  # noqa: F401
    from cte_dask.engine import checkpoint
    from cte_dask.engine import dask_runner as run
    from cte_dask.engine.checkpoint import Checkpoint
    from cte_dask.scoring.block_scores import BlockScores
    from cte_dask.scoring.score_block import failed_block

    def asleep(experiment: Any, index: int) -> BlockScores:
        time.sleep(seconds)
        scores = failed_block(experiment, index, {})
        scores.mark(range(len(experiment.candidates)), "scored")
        return scores

    real, lock, total = Checkpoint.__call__, threading.Lock(), [0.0]

    def timed(*arguments: Any) -> BlockScores:
        began = time.perf_counter()
        try:
            return real(*arguments)
        finally:
            with lock:
                total[0] += time.perf_counter() - began

    checkpoint.score_block = asleep
    Checkpoint.__call__ = timed  # type: ignore[method-assign]
    run._seconds_in_tasks = total  # type: ignore[attr-defined]


def time_in_tasks() -> float:
    """In a worker: seconds that its threads spent in tasks."""
    from cte_dask.engine import dask_runner as run

    return float(run._seconds_in_tasks[0])  # type: ignore[attr-defined]


def _versions() -> dict[str, str]:
    from cte_dask.scoring.experiment import versions

    return versions()


if __name__ == "__main__":
    main()
