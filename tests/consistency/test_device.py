from __future__ import annotations

import ast
import ctypes
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cte_dask.consistency.binary import counts_by_formula
from tests.device import PACKAGE, build_for_host, compile_for_gpu

HEADER = PACKAGE / "consistency" / "device" / "foreground_counts.cuh"
SHIM = Path(__file__).with_name("foreground_counts_shim.cpp")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_for_host(SHIM, HEADER, tmp_path_factory.mktemp("shim") / "counts.so")


def run(shim: ctypes.CDLL, p: np.ndarray, q: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    rows = np.zeros((len(bounds), 6))
    strides = [np.array([s // m.itemsize for s in m.strides], dtype=np.int64) for m in (p, q)]
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (p, strides[0], q, strides[1], bounds)]
    count = ctypes.c_longlong(len(bounds))
    level = ctypes.c_double(float(p.dtype.type(0.3)))
    out = rows.ctypes.data_as(ctypes.c_void_p)
    getattr(shim, f"count_{p.dtype.name}")(*pointers, count, level, out)
    return rows


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_kernels_compile_for_the_gpu(architecture: str, tmp_path: Path) -> None:
    compile_for_gpu(HEADER, architecture, tmp_path / "counts.cubin")
    code = (tmp_path / "counts.cubin").read_bytes()
    for name in ("float16", "bfloat16", "float32", "float64"):
        assert f"cte_count_{name}".encode() in code
    assert b"cte_finish" in code


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 300), (9, 33, 40), (20, 130, 7)])
def test_device_arithmetic_counts_what_the_formula_counts(
    shim: ctypes.CDLL, dtype: str, shape: tuple
) -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.random((3, *shape)).astype(dtype) for _ in range(2))
    p.flat[::17] = np.nan
    q.flat[::23] = np.nan
    p.flat[::19] = 0.3
    bounds = np.array([[0, 0, 0, *shape]] * 3)
    bounds[1, :3] = [n // 3 for n in shape]
    bounds[2, 3:] = [(n + 1) // 2 for n in shape]
    found, wanted = (
        run(shim, p, q, bounds),
        counts_by_formula(p, q, bounds, p.dtype.type(0.3)),
    )
    assert_array_equal(np.delete(found, 2, axis=1), np.delete(wanted, 2, axis=1))
    assert_allclose(found[:, 2], wanted[:, 2], rtol=1e-12)


def test_device_reads_strided_views(shim: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    p, q = (rng.random((2, 12, 10, 14)).astype("float32") for _ in range(2))
    bounds = np.array([[0, 0, 0, 12, 10, 14]] * 2)
    turned = np.ascontiguousarray(p.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert_array_equal(run(shim, turned, q, bounds), run(shim, p, q, bounds))


def test_the_launcher_and_the_kernels_agree_on_their_sizes(shim: ctypes.CDLL) -> None:
    tree = ast.parse((PACKAGE / "consistency" / "_cupy.py").read_text())
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert constants == {
        "_THREADS": shim.threads(),
        "_MAX_BLOCKS": shim.max_blocks(),
        "_ROWS_PER_BLOCK": shim.rows_per_block(),
        "_COUNTS_BYTES": shim.counts_bytes(),
    }
