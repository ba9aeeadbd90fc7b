"""Device headers without a GPU: compiled by nvcc, and run on the host through a C++ shim."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cte_dask"


def compile_for_gpu(header: Path, architecture: str, output: Path) -> None:
    """Compile a device header to machine code for one GPU architecture, warnings as errors."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on this machine")
    flags = ["-x", "cu", f"-arch={architecture}", "-cubin", "-std=c++17", "--fmad=false"]
    command = [nvcc, *flags, "-Werror", "all-warnings", "-o", str(output), str(header)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def build_for_host(shim: Path, header: Path, output: Path) -> ctypes.CDLL:
    """Compile a shim around a device header with the host's compiler and load it."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    flags = ["-O2", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Werror"]
    command = [compiler, *flags, f"-I{header.parent}", "-o", str(output), str(shim)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(output))
