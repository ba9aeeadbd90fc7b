from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import stats

from cte_dask.perturb import _numba, philox
from cte_dask.perturb.philox import key, normal_field, normals_by_formula, philox4x32, uniform
from tests.device import PACKAGE, build_for_host, compile_for_gpu

HEADER = PACKAGE / "perturb" / "device" / "philox.cuh"
SHIM = Path(__file__).with_name("philox_shim.cpp")

# Known answers published with Random123 (Salmon et al. 2011): counter, key, output.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

KEY_OF_VERSION_1 = (4050628790, 53395920)

coordinate = st.integers(-300, 300)
extent = st.integers(0, 12)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_for_host(SHIM, HEADER, tmp_path_factory.mktemp("shim") / "philox.so")


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return normal_field(key(1, "sample"), (-5, -60, -70), (15, 140, 130))


# --- the generator


@pytest.mark.parametrize(("counter", "words", "output"), KNOWN)
def test_philox_gives_the_published_answers(counter: tuple, words: tuple, output: tuple) -> None:
    assert tuple(philox4x32(counter, words)) == output
    compiled = np.array(counter, "u4")[:, None].repeat(3, axis=1)
    _numba._philox(*compiled, *np.array(words, "u4"), 2)
    assert compiled.T.tolist() == [list(output), list(output), list(counter)]


def test_keys_differ_wherever_their_parts_do() -> None:
    parts = [
        (0, "gaussian:0.1", 0, 1),
        (1, "gaussian:0.1", 0, 1),
        (0, "gaussian:0.2", 0, 1),
        (0, "gaussian:0.1", 1, 0),
        (0, "gaussian:0.1", 0, 1, 0),
        (0, "gaussian:0.1", 0, "1"),
        (0, "gaussian:0.", "10", 1),
        (0, "gaussian:0.1", -1, 0),
    ]
    assert len({key(*p) for p in parts}) == len(parts)


def test_a_key_never_changes_between_versions() -> None:
    assert key(0, "gaussian:0.1", 0, 17) == KEY_OF_VERSION_1
    assert key(np.int64(0), "gaussian:0.1", 0, np.uint8(17)) == KEY_OF_VERSION_1


@pytest.mark.parametrize("part", [0.5, None, True, b"x"])
def test_a_key_is_made_of_text_and_integers_only(part: object) -> None:
    with pytest.raises(TypeError, match="text and integers"):
        key(0, part)


# --- uniforms


def test_uniforms_are_uniform_and_extend_one_another() -> None:
    draws = uniform(key(0, "u"), 20_001)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 0.01
    assert_array_equal(uniform(key(0, "u"), 7), draws[:7])
    assert uniform(key(0, "u"), 0).shape == (0,)


# --- normal fields


def test_normals_are_standard_normal(sample: np.ndarray) -> None:
    draws = sample.ravel()
    assert abs(draws.mean()) < 4 / math.sqrt(draws.size)
    assert abs(draws.std() - 1) < 4 / math.sqrt(2 * draws.size)
    assert stats.kstest(draws[::4], "norm").pvalue > 0.01
    assert abs(stats.kurtosis(draws)) < 4 * math.sqrt(24 / draws.size)


@pytest.mark.parametrize("shift", [(0, 0, 1), (0, 0, 2), (0, 0, 4), (0, 1, 0), (1, 0, 0)])
def test_neighbouring_voxels_are_uncorrelated(sample: np.ndarray, shift: tuple) -> None:
    moved = np.roll(sample, shift, axis=(0, 1, 2))
    assert abs(np.corrcoef(sample.ravel(), moved.ravel())[0, 1]) < 4 / math.sqrt(sample.size)


def test_words_at_the_edges_of_their_range_give_finite_normals() -> None:
    words = np.array([0, 1, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1], dtype=np.uint32)
    radius = philox._radius(words)
    assert np.isfinite(radius).all()
    assert radius.max() < 6.7
    exact = np.sqrt(-2 * np.log(((words >> 1) + 0.5) * 2.0**-31))
    np.testing.assert_allclose(radius, exact, atol=4e-4)  # near u = 1 float32 has 2**-24 steps
    cosine, sine = philox._cos_sin(words)
    angle = 2 * np.pi * words / 2**32
    np.testing.assert_allclose(cosine, np.cos(angle), atol=2e-7)
    np.testing.assert_allclose(sine, np.sin(angle), atol=2e-7)


@given(st.tuples(*[coordinate] * 3), st.tuples(*[extent] * 3), st.integers(0, 2**32 - 1))
def test_compiled_normals_have_the_bits_of_the_formula(
    start: tuple, shape: tuple, word: int
) -> None:
    stop = tuple(a + n for a, n in zip(start, shape, strict=True))
    found = normal_field((word, 7), start, stop)
    assert found.dtype == np.float32
    assert_array_equal(found, normals_by_formula((word, 7), start, stop))


@pytest.mark.parametrize("width", [5, 29, 700, 2100])
@pytest.mark.parametrize("rows", [1, 150])
def test_fields_of_any_width_have_the_bits_of_the_formula(width: int, rows: int) -> None:
    corner, stop = (2**31 - 1, -1, -(2**20) - 3), (2**31 + 1, rows - 1, width - 2**20 - 3)
    found = normal_field((1, 2), corner, stop)
    assert_array_equal(found, normals_by_formula((1, 2), corner, stop))


@given(
    st.tuples(*[st.integers(0, 9)] * 3),
    st.tuples(*[st.integers(0, 9)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_noise_of_a_voxel_does_not_depend_on_the_frame(
    before: tuple, after: tuple, shape: tuple
) -> None:
    framed = normal_field(
        (3, 4),
        tuple(-b for b in before),
        tuple(n + a for n, a in zip(shape, after, strict=True)),
    )
    core = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    assert_array_equal(framed[core], normal_field((3, 4), (0, 0, 0), shape))


def test_other_keys_give_other_noise() -> None:
    fields = [
        normal_field(key(0, "gaussian:0.1", r, t), (0, 0, 0), (1, 64, 64))
        for r in range(2)
        for t in range(2)
    ]
    matrix = np.corrcoef([f.ravel() for f in fields])
    assert np.abs(matrix - np.eye(4)).max() < 0.07


def test_numpy_fields_are_drawn_by_the_compiled_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the formula ran where the kernel should")

    monkeypatch.setattr(philox, "normals_by_formula", refuse)
    normal_field((0, 0), (0, 0, 0), (1, 2, 3), like=np.zeros(3))


def test_a_field_of_negative_extent_is_refused() -> None:
    with pytest.raises(ValueError, match="negative extent"):
        normal_field((0, 0), (0, 0, 0), (1, -1, 3))


# --- the GPU's source


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_kernel_compiles_for_the_gpu(architecture: str, tmp_path: Path) -> None:
    compile_for_gpu(HEADER, architecture, tmp_path / "philox.cubin")
    assert b"cte_normal_field" in (tmp_path / "philox.cubin").read_bytes()


@pytest.mark.parametrize(("counter", "words", "output"), KNOWN)
def test_device_philox_gives_the_published_answers(
    shim: ctypes.CDLL, counter: tuple, words: tuple, output: tuple
) -> None:
    state = (ctypes.c_uint32 * 4)(*counter)
    shim.philox(state, *(ctypes.c_uint32(w) for w in words))
    assert tuple(state) == output


@pytest.mark.parametrize("start", [(0, 0, 0), (-1, -2, -3), (5, -7, 3), (0, 0, -8)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 4, 130)])
def test_device_normals_have_the_bits_of_the_formula(
    shim: ctypes.CDLL, start: tuple, shape: tuple
) -> None:
    field = np.full(shape, np.nan, dtype=np.float32)
    words = [ctypes.c_uint32(w) for w in (0xDEADBEEF, 42)]
    corner, size = [ctypes.c_int(v) for v in start], [ctypes.c_longlong(n) for n in shape]
    shim.normal_field(*words, *corner, *size, field.ctypes.data_as(ctypes.c_void_p))
    stop = tuple(a + n for a, n in zip(start, shape, strict=True))
    assert_array_equal(field, normals_by_formula((0xDEADBEEF, 42), start, stop))


@pytest.mark.gpu
def test_gpu_normals_have_the_bits_of_the_cpu() -> None:
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    corners = (-2, -3, -5), (4, 60, 70)
    found = normal_field((1, 2), *corners, like=cupy.zeros(1))
    assert_array_equal(found.get(), normal_field((1, 2), *corners))
