"""What a GPU will be measured by tries itself out on the CPU, with neither Dask nor zarr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
BARE = ("dask", "distributed", "zarr")
HANGING = """
import sys, time
sys.path.insert(0, "{folder}")
if "--section" in sys.orig_argv:
    import gpu_kernels
    gpu_kernels._packed = lambda *_: time.sleep(600)
"""


def measured(folder: Path, *options: str, lacking: tuple[str, ...] = BARE) -> dict:
    """Run the benchmark where some modules are not to be had; return what it wrote."""
    for name in lacking:
        (folder / f"{name}.py").write_text(f"raise ImportError('no {name}')\n")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{BENCHMARKS.parent}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # zarr brings a plugin
        "PYTEST_ADDOPTS": "-p pytest_timeout",
    }
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(folder), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("nogpu-*.json")
    record: dict = json.loads(path.read_text())
    return record


def cases(section: dict) -> dict:
    assert section
    for name, case in section.items():
        assert "failed" not in case, (name, case)
        assert "left_out" not in case, (name, case)
    return section


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("gpu"), "--only", "end to end,authors,passes")


def test_kernels_are_compared_with_a_copy(tmp_path):
    record = measured(tmp_path, "--only", "kernels", lacking=(*BARE, "pydantic"))
    kernels = cases(record["sections"]["kernels"])
    assert next(iter(kernels)) == "copy"
    assert kernels["copy"]["of_copy"] == 1
    assert {"agreement", "packed masks", "vote tables", "normals", "gaussian:0.1"} < set(kernels)
    for kernel in kernels.values():
        assert kernel["gb_per_s"] * kernel["fastest_s"] * 1e9 == pytest.approx(kernel["bytes"])
        assert kernel["launches"] is None, "there is no GPU"
    assert (record["schema"], record["machine"]["device"]) == ("cte-gpu/2", "cpu")
    assert record["lacking"] == ["dask", "zarr"]


def test_what_would_exceed_the_budget_is_left_out(tmp_path):
    record = measured(tmp_path, "--only", "kernels,end to end,authors", "--budget", "0")
    assert set(record["sections"]) == {"kernels", "end to end", "authors"}
    for section in record["sections"].values():
        assert section == {"left_out": "no time was left"}


def test_what_is_not_installed_is_left_out(tmp_path):
    record = measured(tmp_path, "--only", "passes", lacking=(*BARE, "pydantic"))
    assert "no pydantic" in record["sections"]["passes"]["left_out"]


@pytest.mark.slow
def test_a_section_that_breaks_costs_no_other(tmp_path):
    (tmp_path / "safetensors.py").write_text("import os\nos._exit(9)\n")  # first in the authors'
    record = measured(tmp_path, "--only", "authors,kernels")
    assert record["sections"]["authors"] == {"ended": "its process ended with status 9"}
    assert "copy" in cases(record["sections"]["kernels"])


@pytest.mark.slow
def test_a_section_that_hangs_is_killed_and_what_it_measured_stays(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HANGING.format(folder=BENCHMARKS))
    record = measured(tmp_path, "--only", "kernels", "--budget", "27")
    kernels = record["sections"]["kernels"]
    assert kernels.pop("ended").startswith("killed after")
    assert set(cases(kernels)) == {"copy", "agreement"}


def test_a_run_that_hangs_is_ended(tmp_path):
    hangs = tmp_path / "python"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o755)
    environment = {"PYTHON": str(hangs), "BUDGET": "1", "PATH": "/bin:/usr/bin"}
    done = subprocess.run([BENCHMARKS / "gpu.sh"], env=environment, check=False)
    assert done.returncode == 124


@pytest.mark.slow
def test_scoring_is_compared_with_bare_passes_and_the_authors_procedure(scored):
    for case in cases(scored["sections"]["end to end"]).values():
        assert set(case["cases"]) == {"end to end", "bare passes", "plain module"}
        assert case["ratios to end to end"]["bare passes"]["median"] > 0
        assert {"tiles", "batch", "device_bytes", "host_bytes"} < set(case)
    authors = cases(scored["sections"]["authors"])["2D U-Net"]["ratios of the authors' procedure"]
    assert authors["ours, float32"]["median"] > 0
    for case in cases(scored["sections"]["passes"]).values():
        assert case["times as fast"]["median"] > 0
        assert 0 < case["largest difference"] < 0.1


@pytest.mark.slow
def test_the_tests_of_a_gpu_need_neither_dask_nor_zarr(tmp_path):
    record = measured(tmp_path, "--only", "tests")
    ended = record["sections"]["tests"]["marked gpu"]
    assert ended["status"] == 0, ended["output"]
    assert ended["tests"] == ended["skipped"] > 0
    assert ended["errors"] == 0


@pytest.mark.slow
def test_the_script_measures_all_of_it(tmp_path):
    environment = {"PYTHON": sys.executable, "OUT": str(tmp_path), "PATH": "/bin:/usr/bin"}
    subprocess.run([BENCHMARKS / "gpu.sh"], env=environment, check=True)
    (path,) = tmp_path.glob("nogpu-*.json")
    record = json.loads(path.read_text())
    assert list(record["sections"]) == ["tests", "kernels", "end to end", "authors", "passes"]
    assert record["took_s"] < record["budget_s"] == 450
