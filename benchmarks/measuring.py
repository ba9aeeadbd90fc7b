"""What every benchmark shares: forms run in turn in one process, medians and spread, one record."""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    *("torch", "numpy", "numba", "zarr", "dask", "h5py", "monai", "bioimageio.core"),
    *("scikit-image", "zarrs", "tensorstore", "openvino"),
)


def nothing() -> None:
    """Wait for nothing: what runs on the processor has ended when its call returns."""


def alternated(
    forms: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    wait: Callable[[], None] = nothing,
    until: float = math.inf,
) -> dict[str, dict[str, Any]]:
    """Run each form once to warm it, then all in turn; seconds of processor and clock.

    Neighbours on the machine slow the clock more than the processor time of a form, and no
    neighbour favours a form when all take turns. `wait` returns when a device has ended what it was
    given. A round that would not end before `until` (of `time.monotonic`) is not begun, but the
    first one always is.
    """
    for run in forms.values():
        run()
    wait()
    cpu: dict[str, list[float]] = {name: [] for name in forms}
    wall: dict[str, list[float]] = {name: [] for name in forms}
    longest = 0.0
    for number in range(repeats):
        start = time.monotonic()
        if number and start + longest > until:
            break
        for name, run in forms.items():
            began, spent = time.perf_counter(), _processor_seconds()
            run()
            wait()
            cpu[name].append(_processor_seconds() - spent)
            wall[name].append(time.perf_counter() - began)
        longest = max(longest, time.monotonic() - start)
    return {n: {"cpu_s": spread(cpu[n]), "wall_s": spread(wall[n])} for n in forms}


def _processor_seconds() -> float:
    """Of this process and of the children that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "values": [float(f"{v:.5g}") for v in values],
    }


def ratio(
    results: Mapping[str, Any], over: str, under: str, clock: str = "cpu_s"
) -> dict[str, Any]:
    """Median over the turns of one form's time by another's, with its extremes."""
    pairs = zip(results[over][clock]["values"], results[under][clock]["values"], strict=True)
    return spread([a / b for a, b in pairs])


def electron_microscopy(planes: int, height: int = 384, width: int = 512) -> np.ndarray:
    """Planes of the EPFL volume in the folder CTE_DATA, uint8 (z, y, x)."""
    folder = os.environ.get("CTE_DATA", str(RESULTS.parents[2] / "shared" / "data"))
    path = Path(folder) / "v_epfl_iso10nm.npz"
    if not path.is_file():
        raise SystemExit(f"no {path.name} in {folder}: set CTE_DATA")
    with np.load(path) as data:
        return data["raw_test"][:planes, :height, :width]


def save(name: str, record: Mapping[str, Any]) -> None:
    """Write a record with the machine and the versions, and print its ratios."""
    contents = {"date": date.today().isoformat(), "machine": machine(), "versions": versions()}
    contents |= record
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(contents, indent=1) + "\n")
    for title, value in contents.get("ratios", {}).items():
        print(f"{title:60s} {value['median']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_at_end": round(os.getloadavg()[0], 1),
    }


def versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
