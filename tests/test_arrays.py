from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from cte_dask.arrays import from_torch, namespace, to_numpy, to_torch


@pytest.fixture
def gpu_array(monkeypatch: pytest.MonkeyPatch) -> object:
    """An object of CuPy's type as `namespace` sees it; CuPy itself needs no GPU to be named."""
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    return type("ndarray", (), {"__module__": "cupy._core.core"})()


def test_numpy_arrays_and_scalars_belong_to_numpy() -> None:
    assert namespace(np.zeros(2), 1.0, np.float32(2)) is np
    assert namespace() is np


def test_gpu_arrays_belong_to_cupy(gpu_array: object) -> None:
    assert namespace(gpu_array, 1.0) is sys.modules["cupy"]


def test_host_and_gpu_arrays_are_never_mixed_silently(gpu_array: object) -> None:
    with pytest.raises(TypeError, match="mixed"):
        namespace(np.zeros(2), gpu_array)


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(2), "text"])
def test_what_is_no_array_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="NumPy or CuPy"):
        namespace(value)


def test_neither_torch_nor_cupy_is_imported_for_numpy() -> None:
    code = """
import sys
sys.modules["cupy"] = sys.modules["torch"] = None
import numpy as np
from cte_dask.arrays import namespace, to_numpy
a = np.zeros(2)
print(namespace(a) is np, to_numpy(a) is a)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True True", done.stderr


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int64", "bool"])
def test_memory_is_shared_both_ways(dtype: str) -> None:
    a = np.ones((2, 3), dtype=dtype)
    tensor = to_torch(a)
    tensor[0, 0] = 0
    assert a[0, 0] == 0
    assert np.shares_memory(from_torch(tensor), a)
    assert to_numpy(tensor).dtype == a.dtype


def test_a_tensor_with_a_gradient_is_detached() -> None:
    assert from_torch(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_arrays_torch_cannot_hold_are_copied() -> None:
    a = np.arange(6.0).reshape(2, 3)
    frozen = a.copy()
    frozen.flags.writeable = False
    for source in (frozen, a[::-1], a.astype(">f8"), a.T):
        assert to_torch(source).tolist() == source.tolist()


def test_bfloat16_is_refused_on_the_host_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"\.float\(\)"):
        from_torch(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="expected a torch tensor"):
        from_torch(np.ones(2))


@pytest.mark.gpu
def test_gpu_memory_is_shared_both_ways() -> None:
    cupy = pytest.importorskip("cupy")
    if not (cupy.cuda.is_available() and torch.cuda.is_available()):
        pytest.skip("no GPU")
    a = cupy.ones((2, 3), dtype="float32")
    tensor = to_torch(a, "cuda")
    tensor[0, 0] = 0
    assert float(a[0, 0]) == 0
    assert from_torch(tensor).data.ptr == a.data.ptr
    assert to_numpy(a).tolist() == to_numpy(tensor).tolist()


# --- kernels


def test_a_process_with_little_to_count_never_loads_numba() -> None:
    code = """
import sys
import numpy as np
from cte_dask.consistency.binary import binary_agreement
from cte_dask.consistency.vote_patterns import core_bits, packed, vote_tables
from cte_dask.perturb.philox import normal_field
maps = np.random.default_rng(0).random((2, 1, 1, 64, 64), np.float32)
cores = [(slice(0, 1), slice(0, 64), slice(0, 64))]
def score():
    masks = np.stack([packed([m], cores=cores, threshold=0.5) for m in maps])
    tables = vote_tables(masks, core_bits((1, 64, 64), cores), np.ones((1, 2), bool))
    field = normal_field((1, 2), (0, 0, 0), (1, 64, 64))
    bits = (tables.patterns.tobytes(), tables.counts.tobytes(), field.tobytes())
    return binary_agreement(*maps), *bits
first = score()
assert "numba" not in sys.modules
rounds = 0
while "numba" not in sys.modules and rounds < 10_000:
    rounds += 1
    assert score() == first
assert 10 < rounds < 10_000, rounds
assert score() == first
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
