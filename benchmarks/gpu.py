"""The device benchmarks of `benchmarks/gpu.sh`: consistency, random numbers and a network.

Needs torch and, on a GPU, CuPy; neither Dask nor zarr. Without a GPU it runs on the CPU, to try
itself out, and calls its file ``nogpu-<date>.json``. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import torch
from measuring import machine

from cte_dask.arrays import from_torch
from cte_dask.consistency.binary import binary_agreement_batch
from cte_dask.consistency.instance import v_rand
from cte_dask.models.unet import UNet
from cte_dask.perturb.philox import normal_field

SIZES = {"cuda": (64, 1024, 1024), "cpu": (4, 512, 512)}
"""Maps that a call compares: planes, y, x."""


def seconds(work: Callable[[], Any], device: str, repeats: int = 9) -> dict[str, float]:
    """Return median, fastest and slowest of some calls, after two that warm up."""
    times: list[float] = []
    for number in range((repeats if device == "cuda" else 3) + 2):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if number > 1:
            times.append(time.perf_counter() - began)
    return {"median_s": statistics.median(times), "fastest_s": min(times), "slowest_s": max(times)}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def agreement(device: str) -> dict[str, Any]:
    """NHD and EI of two probability maps: each voxel is read once from each."""
    shape = SIZES[device]
    p = torch.rand(shape, device=device)
    q = (p + 0.1 * torch.randn(shape, device=device)).clamp(0, 1)
    a, b = from_torch(p), from_torch(q)
    timing = seconds(lambda: binary_agreement_batch(a, b), device)
    moved = 2 * p.numel() * p.element_size()
    return {**timing, "voxels": p.numel(), "gb_per_s": moved / timing["median_s"] / 1e9}


def rand(device: str) -> dict[str, Any]:
    """V^Rand of two label images whose objects are cubes of 16 voxels, one moved by one."""
    _, y, x = SIZES[device]
    grid = torch.arange(y * x, device=device).reshape(y, x)
    labels = (grid // x // 16 * (x // 16) + grid % x // 16 + 1).to(torch.int32)
    moved = torch.roll(labels, (1, 1), (0, 1)).contiguous()
    a, b = from_torch(labels), from_torch(moved)
    return {**seconds(lambda: v_rand(a, b), device), "voxels": y * x}


def noise(device: str) -> dict[str, Any]:
    """Normal numbers of Philox, counted from the voxel they belong to."""
    like = from_torch(torch.empty(0, device=device))
    shape = SIZES[device]
    timing = seconds(lambda: normal_field((1, 2), (0, 0, 0), shape, like=like), device)
    return {**timing, "numbers": int(np.prod(shape))}


def network(device: str, precision: torch.dtype) -> dict[str, Any]:
    """The forward pass of a 2D U-Net on a batch of tiles with their halo."""
    model = UNet(dims=2, features=(16, 32, 64, 96)).eval().to(device, precision)
    model = model.to(memory_format=torch.channels_last)
    tiles = torch.rand(16 if device == "cuda" else 1, 1, 352, 352, device=device, dtype=precision)
    with torch.inference_mode():
        timing = seconds(lambda: model(tiles), device)
    return {**timing, "tiles": len(tiles), "tiles_per_s": len(tiles) / timing["median_s"]}


def tests(path: Path | None) -> dict[str, int]:
    """Return how the tests of a JUnit file ended; empty if there is none."""
    if path is None or not path.exists():
        return {}
    suites = list(ET.parse(path).getroot().iter("testsuite"))
    names = ("tests", "failures", "errors", "skipped")
    return {name: sum(int(suite.get(name, 0)) for suite in suites) for name in names}


def hardware(device: str) -> dict[str, Any]:
    """Return what the figures were measured on."""
    description = {**machine(), "device": "cpu"}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        description |= {
            "device": card.name,
            "capability": f"{card.major}.{card.minor}",
            "memory_gb": round(card.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
        }
    return description


def versions() -> dict[str, str]:
    """Return the versions of what is installed; CuPy goes by several names."""
    installed = {}
    for name in ("torch", "numpy", "numba", "cupy", "cupy-cuda12x", "cupy-cuda13x"):
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=Path, help="JUnit file of the tests marked gpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "agreement": lambda: agreement(device),
        "v_rand": lambda: rand(device),
        "normals": lambda: noise(device),
        "unet_float32": lambda: network(device, torch.float32),
        "unet_bfloat16": lambda: network(device, torch.bfloat16),
    }
    if device == "cpu":
        del work["unet_bfloat16"]  # half a minute, and it tells nothing of a GPU
    figures: dict[str, Any] = {}
    for name, measure in work.items():
        figures[name] = measure()
        print(name, figures[name], flush=True)
    if device == "cuda":
        figures["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    result = {
        "schema": "cte-gpu/1",
        "machine": hardware(device),
        "versions": versions(),
        "tests": tests(options.tests),
        "figures": figures,
    }
    kind = "gpu" if device == "cuda" else "nogpu"
    path = options.out / f"{kind}-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
