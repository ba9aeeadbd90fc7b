"""What only a GPU can show: the body of `benchmarks/gpu.sh`. Not yet run on a GPU.

    python benchmarks/gpu.py [--budget 450] [--only kernels,passes] [--out benchmarks/results]

The tests marked `gpu`, kernels against copy bandwidth, scoring from end to end against bare passes,
the authors' procedure, precisions and runtimes of the passes. Each section is a process of its own,
so that one that breaks the device, or hangs, costs no other, and has a share of the time budget: a
case that would begin after its section's end is left out, repeats that would end after it are not
begun, and what still runs `GRACE_S` later is killed; the record tells each. It is written anew
after each section. Needs torch and, on a GPU, CuPy; of what is not installed here the sections that
want it are left out. Without a GPU it tries itself out on the CPU at small sizes, and calls its
file ``nogpu-<date>.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import torch
from gpu_kernels import kernels, launches, seconds
from measuring import machine

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"tests": 0.2, "kernels": 0.1, "end to end": 0.25, "authors": 0.15, "passes": 0.3}
"""Of the budget; what a section leaves goes to those behind it."""
GRACE_S = 15.0
"""What a section may overrun its share by, for a case that cannot be cut short."""
PACKAGES = ("torch", "numpy", "numba", "cupy", "cupy-cuda12x", "cupy-cuda13x", "triton")
COUNTS = ("tests", "failures", "errors", "skipped")

Case = tuple[str, Callable[[float], dict[str, Any]], float]
"""A name, what measures it until a time of `time.monotonic`, and seconds that it takes at least."""
LEAST_S = {"torch": 0.0, "inductor": 60.0}
"""A compilation cannot be cut short."""


def test_section(device: str) -> Iterator[Case]:
    """The tests marked `gpu`, of all folders or of those that need neither Dask nor zarr."""
    yield "marked gpu", _tests, 0.0


def _tests(until: float) -> dict[str, Any]:
    """Run them in a process of their own, which is ended in time; return how they ended."""
    paths = gpu_tests()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-W", "default"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}", *paths]
        left = max(1.0, until - time.monotonic())
        try:
            done = subprocess.run(
                command, cwd=ROOT, timeout=left, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired as error:
            return {
                "paths": paths,
                "left_out": f"not ended in {left:.0f} s",
                "output": _tail(error.stdout),
            }
        ended = {"paths": paths, "status": done.returncode, "output": _tail(done.stdout)}
        if not report.exists():
            return ended
        suites = list(ET.parse(report).getroot().iter("testsuite"))
        return {n: sum(int(s.get(n, 0)) for s in suites) for n in COUNTS} | ended


def gpu_tests() -> list[str]:
    """Return where the tests marked `gpu` lie; these files need neither Dask nor zarr."""
    files = (ROOT / "tests").rglob("test_*.py")
    marked = sorted(f for f in files if "pytest.mark.gpu" in f.read_text())
    return [str(file.relative_to(ROOT)) for file in marked]


def _tail(output: str | bytes | None) -> list[str]:
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return text.splitlines()[-20:]


def kernel_section(device: str) -> Iterator[Case]:
    """Each kernel, and how near it comes to a copy."""
    copied: list[float] = []

    def measure(make: Callable[[], Any]) -> dict[str, Any]:
        kernel = make()
        timing = seconds(kernel.call, device, repeats=9 if device == "cuda" else 1)
        moved = kernel.bytes / timing["fastest_s"] / 1e9
        copied.append(moved)  # the copy comes first
        rates = {"bytes": kernel.bytes, "gb_per_s": moved, "of_copy": moved / copied[0]}
        return {**timing, **rates, "launches": launches(kernel.call, device)}

    for name, make in kernels(device):
        yield name, lambda _until, make=make: measure(make), 0.0


def end_to_end_section(device: str) -> Iterator[Case]:
    """2D and 3D, one perturbation and four, in float32; on a GPU four in TF32 and bfloat16 too."""
    import gpu_passes

    few, many = gpu_passes.PERTURBATIONS
    cases = [("float32", few), ("float32", many)]
    if device == "cuda":
        cases += [("tf32", many), ("bfloat16", many)]
    for precision, kind in cases:
        for dims in (2, 3):
            measure = partial(gpu_passes.end_to_end, dims, kind, device, precision=precision)
            yield f"{dims}D {kind}, {precision}", measure, 0.0


def authors_section(device: str) -> Iterator[Case]:
    """The authors' procedure on the device."""
    import gpu_passes

    yield "2D U-Net", partial(gpu_passes.against_authors, device), 0.0


def passes_section(device: str) -> Iterator[Case]:
    """The passes in each precision, and compiled by inductor (default mode) on a GPU."""
    import gpu_passes

    low = ("tf32", "bfloat16", "float16") if device == "cuda" else ("bfloat16",)
    compiled = ("float32", "bfloat16") if device == "cuda" else ()
    cases = [(p, "torch") for p in low] + [(p, "inductor") for p in compiled]
    for precision, runtime in cases:
        for dims in (2, 3):
            measure = partial(gpu_passes.passes_of, dims, precision, device, runtime=runtime)
            yield f"{dims}D {precision} by {runtime}", measure, LEAST_S[runtime]


SECTIONS: dict[str, Callable[[str], Iterator[Case]]] = {
    "tests": test_section,
    "kernels": kernel_section,
    "end to end": end_to_end_section,
    "authors": authors_section,
    "passes": passes_section,
}


def measure_section(name: str, until: float, path: Path) -> None:
    """Run the cases of a section as long as there is time; write what they gave after each."""
    device, results = device_here(), dict[str, Any]()
    try:
        for case, measure, least in SECTIONS[name](device):
            results[case] = _measured(measure, until, least)
            print(case, json.dumps(results[case])[:200], flush=True)
            path.write_text(json.dumps(results))
    except ImportError as error:
        path.write_text(json.dumps({**results, "left_out": f"not installed here: {error}"}))


def measured(name: str, until: float) -> dict[str, Any]:
    """Run a section in a process of its own; return what it measured until it ended or was."""
    left = until - time.monotonic()
    if left <= 0:
        return {"left_out": "no time was left"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "section.json"
        command = [sys.executable, __file__, "--section", name, "--budget", str(left)]
        try:
            subprocess.run([*command, "--out", str(path)], timeout=left + GRACE_S, check=True)
            ended = {}
        except subprocess.TimeoutExpired:
            ended = {"ended": f"killed after {left + GRACE_S:.0f} s"}
        except subprocess.CalledProcessError as error:
            ended = {"ended": f"its process ended with status {error.returncode}"}
        return {**(json.loads(path.read_text()) if path.exists() else {}), **ended}


def _measured(
    measure: Callable[[float], dict[str, Any]], until: float, least: float
) -> dict[str, Any]:
    if time.monotonic() + least >= until:
        return {"left_out": "no time was left"}
    began = time.monotonic()
    try:
        result = measure(until)
    except ImportError:
        raise
    except Exception as error:
        result = {"failed": f"{type(error).__name__}: {error}"}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {**result, "took_s": round(time.monotonic() - began, 2)}


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
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def device_here() -> str:
    """Return ``"cuda"``, or ``"cpu"`` to try the benchmark out."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def lacking() -> list[str]:
    """Return which of Dask and zarr cannot be imported."""
    absent = []
    for name in ("dask", "zarr"):
        try:
            import_module(name)
        except ImportError:
            absent.append(name)
    return absent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=450.0, help="seconds")
    parser.add_argument("--only", help="sections, parted by commas")
    parser.add_argument("--section", help="measure this one here and write it to the file --out")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    began = time.monotonic()
    if options.section:
        measure_section(options.section, began + options.budget, options.out)
        return 0
    chosen = options.only.split(",") if options.only else list(SECTIONS)
    kind = "gpu" if device_here() == "cuda" else "nogpu"
    path = options.out / f"{kind}-{datetime.now(UTC):%Y-%m-%d}.json"
    record: dict[str, Any] = {
        "schema": "cte-gpu/2",
        "machine": hardware(device_here()),
        "versions": versions(),
        "lacking": lacking(),
        "budget_s": options.budget,
        "sections": {},
    }
    share, whole = 0.0, sum(SHARES[name] for name in chosen)
    for name in chosen:
        share += SHARES[name] / whole
        until = began + share * max(0.0, options.budget - GRACE_S)
        record["sections"][name] = measured(name, until)
        record["took_s"] = round(time.monotonic() - began, 1)
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)
    ended = record["sections"].get("tests", {}).get("marked gpu", {})
    # 5: no test was chosen
    return 0 if ended.get("status", 0) in {0, 5} else 1


if __name__ == "__main__":
    sys.exit(main())
