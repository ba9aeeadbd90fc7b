"""What a run does before its first tile: passes, traces, imports and processor seconds.

    python benchmarks/start.py --label after

Counted: a bank of twenty-one residual U-Nets of one architecture, whose halos are measured, is
settled for tiles of 256², in this process and with a cluster. Beside it: `cte rank` of one tile
with the demonstration's nine models, `cte models check` of those, and what a worker does from its
import of torch to the end of its first task. Processor seconds are those of a whole tree of
processes, those left behind included (Linux). Nothing is in the cache folder, but for the figures
of networks that were ranked before. Adds to ``benchmarks/results/start.json``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, machine, versions
from safetensors.torch import save_file

from cte_dask.demo import bank_path, write_demo_target
from cte_dask.volume import open_volume, write_ome_zarr

HERE = Path(__file__).resolve()
sys.path.append(str(HERE.parent / "vessels"))
from wnet import ResidualUNet  # noqa: E402 (found by the line above)

MODELS, WIDTHS = 21, (16, 32, 64, 144)
HEAVY = ("xarray", "pandas", "dask.array", "scipy", "numba", "zarr", "pyarrow")
ONE_TILE = ("--roi", "0:1,0:256,0:256", "--cluster", "none", "--quiet")


def write_bank(folder: Path, image: np.ndarray) -> Path:
    """Networks of random weights whose foreground covers about half of an image."""
    x = torch.from_numpy(image.astype(np.float32) / 255)[None, None]
    entries = ["schema: cte-bank/1", "models:"]
    for seed in range(MODELS):
        torch.manual_seed(seed)
        network = ResidualUNet(1, 1, WIDTHS).eval().requires_grad_(False)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
        with torch.inference_mode():
            network.final.weight *= 2 / network(x).std()
            network.final.bias -= network(x).median()
        save_file(network.state_dict(), folder / f"{seed}.safetensors")
        entries.append(
            f"  residual-{seed}: {{format: state_dict, source: {seed}.safetensors, axes: yx, "
            "architecture: 'wnet:ResidualUNet', trust: true, "
            f"arguments: {{channels: 1, classes: 1, widths: {list(WIDTHS)}}}, "
            "preprocessing: [{name: scale_range, kwargs: {min_percentile: 1, "
            "max_percentile: 99.8}, scope: volume}], "
            "output: {channel: 0, activation: sigmoid, threshold: 0.5}}"
        )
    path = folder / "bank.yaml"
    path.write_text("\n".join(entries) + "\n")
    return path


def processor_seconds(*command: str, cache: Path) -> float:
    """Run a command; user and system seconds of all processes that came of it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"CTE_CACHE": str(cache)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    with suppress(ChildProcessError):
        while True:  # those it left behind became ours
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Started(BaseException):
    """Everything is ready for the first tile."""


def until_first_tile(target: str, bank: str, cluster: str) -> None:
    """Do what `cte rank` does until the first tile is to be scored."""
    from cte_dask.ranking import rank_target
    from cte_dask.scoring.settings import TargetOptions

    def stop(*_: object, **__: object) -> None:
        raise Started

    rank_target.run_jobs = stop
    with tempfile.TemporaryDirectory() as folder, suppress(Started):
        rank_target.rank_target(TargetOptions(target), bank, f"{folder}/run", cluster=cluster)


def counted(target: str, bank: str) -> None:
    """Print what the networks are asked for until then, in one process."""
    from cte_dask.inference import predictor
    from cte_dask.inference.graph import feature_path
    from cte_dask.inference.graph.trace import flops_of
    from cte_dask.scoring import candidates

    for module in (candidates, predictor):  # operations are counted in this thread alone
        module.within = lambda _limit, call, **_: call()
    passes: Counter[int] = Counter()
    voxels: Counter[int] = Counter()
    traces: list[tuple[int, ...]] = []
    real = feature_path.traced

    def traced(function: Any, *inputs: Any) -> Any:
        traces.append(tuple(inputs[0].shape))
        return real(function, *inputs)

    def note(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, ResidualUNet):
            passes[id(module)] += 1
            voxels[id(module)] += inputs[0].numel()

    feature_path.traced = traced
    torch.nn.modules.module.register_module_forward_pre_hook(note)
    flops = flops_of(lambda: until_first_tile(target, bank, "none"))
    record = {
        "gflop": round(flops / 1e9, 1),
        "plain_passes": sum(passes.values()),
        "megavoxels_of_plain_passes": round(sum(voxels.values()) / 1e6, 2),
        "traces": len(traces),
    }
    print(json.dumps(record))


def first_task(target: str, bank: str) -> None:
    """Print what a worker spends on its first task, torch aside, and what it loads for that."""
    from cte_dask.ranking import rank_target
    from cte_dask.scoring.settings import TargetOptions

    spent, real = [], rank_target.run_jobs

    def timed(task: Any, work: Any, *, client: Any, progress: Any) -> None:
        client.run(__import__, "torch")
        spent.append(client.run(time.process_time))
        real(task, work, client=client, progress=progress)
        spent.append(client.run(time.process_time))
        loaded = client.run(lambda: sorted(__import__("sys").modules))
        spent.append({m for names in loaded.values() for m in names if m in HEAVY})

    rank_target.run_jobs = timed
    with tempfile.TemporaryDirectory() as folder:
        options = {"cluster": "local", "workers": 1}
        asked = TargetOptions(target, roi="0:1,0:256,0:256")
        rank_target.rank_target(asked, bank, f"{folder}/run", **options)
    before, after, loaded = spent
    (seconds,) = (after[worker] - before[worker] for worker in before)
    print(json.dumps({"cpu_s": round(seconds, 2), "loaded": sorted(loaded)}))


def measured(folder: Path, repeats: int) -> dict[str, Any]:
    demo, target = folder / "demo.zarr", folder / "target.zarr"
    write_demo_target(demo)
    image = open_volume(str(demo)).read((0, 0, 0), (4, 256, 256))
    sizes: dict[str, Any] = {"voxel_size_nm": (1.0, 1.0, 1.0), "chunks": (1, 256, 256)}
    write_ome_zarr(target, image, axes="zyx", n_levels=1, **sizes)
    bank = write_bank(folder, image[0])
    nine = str(bank_path())

    def again(*arguments: str) -> dict[str, Any]:
        command = (sys.executable, str(HERE), *arguments)
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(result.stdout.splitlines()[-1])

    def least(*command: str, known: bool = False) -> list[float]:
        caches = [folder / ("known" if known else f"cache-{i}") for i in range(repeats)]
        seconds = []
        for cache in caches:
            seconds.append(round(processor_seconds(*command, cache=cache), 2))
            if not known:
                shutil.rmtree(cache, ignore_errors=True)
        return sorted(seconds)

    def until(cluster: str, *, known: bool = False) -> list[float]:
        command = (sys.executable, str(HERE), "--until", str(target), str(bank), cluster)
        if known:
            processor_seconds(*command, cache=folder / "known")
        return least(*command, known=known)

    def first() -> dict[str, Any]:
        tasks = [again("--first-task", str(demo), nine) for _ in range(repeats)]
        return tasks[-1] | {"cpu_s": sorted(task["cpu_s"] for task in tasks)}

    rank = ("rank", str(demo), "--bank", nine, "--out", str(folder / "run"), "--overwrite")
    return {
        "residual_unets": {
            "models": MODELS,
            "parameters": sum(p.numel() for p in ResidualUNet(1, 1, WIDTHS).parameters()),
            **again("--count", str(target), str(bank)),
            "cpu_s_in_one_process": until("none"),
            "cpu_s_with_a_cluster": until("local"),
            "cpu_s_in_one_process_again": until("none", known=True),
            "cpu_s_with_a_cluster_again": until("local", known=True),
        },
        "one_tile_nine_models": {"cpu_s": least("cte", *rank, *ONE_TILE)},
        "models_check": {
            "cpu_s_a_model": [round(s / 9, 2) for s in least("cte", "models", "check", nine)]
        },
        "first_task_of_a_worker": first(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", default="after")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--until", nargs=3)
    parser.add_argument("--count", nargs=2)
    parser.add_argument("--first-task", nargs=2)
    options = parser.parse_args()
    for name, run in (("until", until_first_tile), ("count", counted), ("first_task", first_task)):
        if (arguments := getattr(options, name)) is not None:
            run(*arguments)
            return
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    folders = (str(HERE.parent / "vessels"), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CTE_CACHE"] = f"{folder}/cache"
        record = {**measured(Path(folder), options.repeats), "versions": versions()}
    path = RESULTS / "start.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    results |= {"machine": machine(), options.label: record}
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
