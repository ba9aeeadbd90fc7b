from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from cte_dask.arrays import native_threshold
from cte_dask.consistency import _numba, binary
from cte_dask.consistency.binary import (
    BinaryAgreement,
    binary_agreement,
    binary_agreement_batch,
    counts_by_formula,
    nhd,
)
from tests.golden import array, cases, number

FLOATS = ("float16", "float32", "float64")


def maps(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> tuple:
    rng = np.random.default_rng(seed)
    return tuple(rng.random(shape).astype(dtype) for _ in range(2))


def by_formula(reference: np.ndarray, perturbed: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """One tile's row by the plain formulas, on a (1, z, y, x) view."""
    frame = (1,) * (4 - reference.ndim) + reference.shape
    bounds = np.array([[0, 0, 0, *frame[1:]]])
    level = native_threshold(threshold, reference.dtype)
    frames = reference.reshape(frame), perturbed.reshape(frame)
    return counts_by_formula(*frames, bounds, level)[0]


@st.composite
def pairs_of_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(max_dims=3, max_side=7))
    dtype = draw(st.sampled_from(FLOATS))
    width = np.dtype(dtype).itemsize * 8
    values = st.floats(0, 1, width=width)
    return draw(hnp.arrays(dtype, shape, elements=values)), draw(
        hnp.arrays(dtype, shape, elements=values)
    )


# --- golden cases


@pytest.mark.parametrize("case", cases("NHD"))
def test_nhd_is_that_of_the_paper(case: dict) -> None:
    counts = binary_agreement(
        array(case["inputs"]["unperturbed"]),
        array(case["inputs"]["perturbed"]),
        threshold=case["params"]["threshold"],
    )
    expected = case["independent"]
    assert counts.n_union == expected["counts"]["n_union"]
    assert counts.n_disagree == expected["counts"]["n_diff"]
    assert_allclose(counts.nhd, number(expected["value"]), atol=case["tolerance"], rtol=0)


@pytest.mark.parametrize("case", cases("EI"))
def test_ei_is_that_of_the_paper(case: dict) -> None:
    counts = binary_agreement(
        array(case["inputs"]["unperturbed"]),
        array(case["inputs"]["perturbed"]),
        threshold=case["params"]["threshold"],
    )
    expected = number(case["independent"]["value"])
    assert_allclose(counts.ei, expected, atol=case["tolerance"], rtol=0)


@pytest.mark.parametrize("case", cases("CMB"))
def test_background_consistency_is_that_of_the_complement(case: dict) -> None:
    p, q = (array(case["inputs"][k]) for k in ("unperturbed", "perturbed"))
    name, t = case["id"].split("_")[1], case["params"]["threshold"]
    foreground = getattr(binary_agreement(p, q, threshold=t), name)
    background = getattr(binary_agreement(1 - p, 1 - q, threshold=1 - t), name)
    mean = case["params"]["w_fg"] * foreground + case["params"]["w_bg"] * background
    expected = case["independent"]
    found = foreground, background, mean
    wanted = expected["fg"], expected["bg"], expected["value"]
    assert_allclose(found, wanted, atol=case["tolerance"], rtol=0)


@pytest.mark.parametrize("case", [c for c in cases("AGG") if c.id != "agg_vrand_tiles"])
def test_tiles_aggregate_by_the_median_and_pool_by_their_counts(case: dict) -> None:
    expected, tolerance = case["independent"], case["tolerance"]
    if case["id"] == "agg_nan_median":
        scores = number(case["inputs"]["per_patch"])
        assert np.nanmedian(scores) == pytest.approx(expected["value"], abs=tolerance)
        return
    assert case["id"] == "agg_nhd_tiles"
    p, q = (array(case["inputs"][k]) for k in ("unperturbed", "perturbed"))
    tiles = [m.reshape(2, 32, 2, 32).transpose(0, 2, 1, 3).reshape(4, 32, 32) for m in (p, q)]
    counts = binary_agreement_batch(*tiles, threshold=case["params"]["threshold"])
    assert counts[:, [1, 0]].tolist() == expected["per_tile_counts_diff_union"]
    scores = nhd(counts[:, 0], counts[:, 1])
    pooled = counts.sum(axis=0)
    assert np.nanmedian(scores) == pytest.approx(expected["value"], abs=tolerance)
    assert scores.mean() == pytest.approx(expected["mean"], abs=tolerance)
    assert nhd(pooled[0], pooled[1]) == pytest.approx(expected["pooled"], abs=tolerance)
    assert binary_agreement(p, q).nhd == pytest.approx(expected["whole_image"], abs=tolerance)


# --- definition


@given(pairs_of_maps(), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_kernel_counts_what_the_formula_counts(pair: tuple, threshold: float) -> None:
    found = np.array(binary_agreement(*pair, threshold=threshold))
    wanted = by_formula(*pair, threshold=threshold)
    assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int32", "int64"])
def test_integer_masks_count_like_floating_ones(dtype: str) -> None:
    p, q = (m > 0.5 for m in maps(1, (4, 5, 6)))
    wanted = binary_agreement(p.astype("float64"), q.astype("float64"))
    assert binary_agreement(p.astype(dtype), q.astype(dtype)) == wanted


def test_threshold_is_compared_in_the_dtype_of_the_maps() -> None:
    for dtype in FLOATS:
        p = np.full(3, 0.3, dtype=dtype)
        assert binary_agreement(p, p, threshold=0.3).n_union == 0


def test_byte_order_does_not_matter() -> None:
    p, q = maps(2, (5, 7))
    assert binary_agreement(p.astype(">f4"), q.astype(">f4")) == binary_agreement(p, q)


@given(pairs_of_maps())
def test_nhd_is_symmetric_and_lies_in_the_unit_interval(pair: tuple) -> None:
    forth, back = binary_agreement(*pair), binary_agreement(*pair[::-1])
    assert (forth.nhd == back.nhd and forth.ei == back.ei) or forth.n_union == back.n_union == 0
    if forth.n_union:
        assert 0 <= forth.nhd <= 1
        assert 0 <= forth.ei <= 1


@given(pairs_of_maps())
def test_identical_maps_agree_wholly_or_say_nothing(pair: tuple) -> None:
    counts = binary_agreement(pair[0], pair[0])
    assert counts.nhd == 1 if counts.n_union else math.isnan(counts.nhd)


def test_nan_is_never_foreground_and_always_counted() -> None:
    for dtype in FLOATS:
        p = np.array([np.nan, 0.9, 0.9, 0.1], dtype=dtype)
        q = np.array([np.nan, -np.nan, 0.9, 0.1], dtype=dtype)
        counts = binary_agreement(p, q)
        assert counts.n_nan == 2
        assert (counts.n_union, counts.n_disagree) == (2, 1)
        assert math.isfinite(counts.sum_ei)


def test_empty_tiles_score_nan_without_a_warning() -> None:
    zero = np.zeros((3, 4), dtype="float32")
    assert math.isnan(binary_agreement(zero, zero).nhd)
    assert math.isnan(binary_agreement(zero, zero).ei)
    assert binary_agreement(zero[:0], zero[:0]) == BinaryAgreement(0, 0, 0.0)


# --- layout, batches and cores


@pytest.mark.slow
@given(pairs_of_maps(), st.permutations(range(3)), st.integers(0, 2))
def test_layout_in_memory_does_not_change_a_bit(pair: tuple, order: list, reverse: int) -> None:
    p, q = (np.broadcast_to(m, (1,) * (3 - m.ndim) + m.shape) for m in pair)
    wanted = binary_agreement(np.ascontiguousarray(p), np.ascontiguousarray(q))
    inverse = np.argsort(order)
    transposed = np.ascontiguousarray(p.transpose(order)).transpose(inverse)
    assert binary_agreement(transposed, q) == wanted
    flipped = np.flip(np.ascontiguousarray(np.flip(p, reverse)), reverse)
    assert binary_agreement(flipped, q) == wanted
    padded = np.pad(p, 2, mode="edge")[2:-2, 2:-2, 2:-2]
    assert binary_agreement(padded, q) == wanted


@examples(30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.data())
def test_a_tile_scores_alike_alone_and_in_a_batch(seed: int, n: int, data: st.DataObject) -> None:
    p, q = maps(seed, (n, 4, 9, 11))
    edges = st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted)
    cores = [tuple(slice(*data.draw(edges)) for _ in range(3)) for _ in range(n)]
    batch = binary_agreement_batch(p, q, cores=cores)
    singles = [binary_agreement(p[i][c], q[i][c]) for i, c in enumerate(cores)]
    assert [tuple(row) for row in batch.tolist()] == [tuple(map(float, s)) for s in singles]


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_counts_of_tiles_add_up_to_those_of_the_whole(seed: int, a: int, b: int) -> None:
    p, q = maps(seed, (3, 10, 10))
    parts = [
        binary_agreement(p[:, y, x], q[:, y, x])
        for y in (slice(0, a), slice(a, None))
        for x in (slice(0, b), slice(b, None))
    ]
    pooled, whole = np.sum(parts, axis=0), binary_agreement(p, q)
    assert_array_equal(np.delete(pooled, 2), np.delete(np.array(whole), 2))
    assert pooled[2] == pytest.approx(whole.sum_ei, rel=1e-12)


@pytest.mark.parametrize("dtype", [*FLOATS, "bool", "uint8", "int32"])
def test_cores_of_a_framed_prediction_are_not_copied(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    kernel = _numba._count_tiles
    monkeypatch.setattr(_numba, "_count_tiles", lambda p, *rest: (seen.append(p), kernel(p, *rest)))
    p, q = maps(3, (2, 3, 20, 24), dtype)
    view = p[:, :, 4:16, 4:16]
    binary_agreement_batch(view, q[:, :, 4:16, 4:16])
    assert np.shares_memory(seen[0], p)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 15, 16, 17, 2065])
def test_rows_of_any_length_are_counted_whole(n: int) -> None:
    p, q = maps(4, (3, n))
    assert_array_equal(np.array(binary_agreement(p, q)), by_formula(p, q))


@given(st.integers(0, 10**6), st.sampled_from((*FLOATS, "bool", "uint8", "int16")), st.data())
def test_the_kernel_gives_the_bits_of_the_formula(
    seed: int, dtype: str, data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.integers(1, most)) for most in (3, 40, 130))
    rng = np.random.default_rng(seed)
    p, q = (rng.uniform(-1, 2, (2, *shape)).astype(dtype) for _ in range(2))
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    bounds = np.array([[0, 0, 0, *shape], np.transpose(ends).ravel()])
    level = native_threshold(0.5, p.dtype)
    got = _numba.foreground_counts(p, q, bounds, level)
    assert_array_equal(got, counts_by_formula(p, q, bounds, level))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(3, 5, 16), (1, 9, 24), (2, 3, 13)])
def test_planes_with_and_without_gaps_give_the_same_bits(shape: tuple, dtype: str) -> None:
    p, q = maps(8, shape, dtype)
    framed = np.zeros((3, shape[0], shape[1] + 2, shape[2] + 3), dtype)
    views = [framed[k, :, 1:-1, 2:-1] for k in (0, 1)]
    views[0][:], views[1][:] = p, q
    turned = [np.moveaxis(np.ascontiguousarray(np.moveaxis(m, -1, 0)), 0, -1) for m in (p, q)]
    assert binary_agreement(*views) == binary_agreement(p, q) == binary_agreement(*turned)


def test_maps_of_any_number_of_axes_are_accepted() -> None:
    p, q = maps(5, (2, 3, 4, 5, 6))
    flat = binary_agreement(p.ravel(), q.ravel())
    assert binary_agreement(p, q)[:2] == flat[:2]
    assert binary_agreement(p[0, 0, 0, 0, 0], q[0, 0, 0, 0, 0]).n_voxels == 1


# --- which implementation runs


def test_numpy_maps_are_counted_by_the_compiled_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the formula ran where the kernel should")

    monkeypatch.setattr(binary, "counts_by_formula", refuse)
    assert binary._implementation(np, voxels=0) is _numba.foreground_counts
    for dtype in (*FLOATS, "bool", "uint8", "int64"):
        binary_agreement(*maps(6, (3, 4), dtype))


def test_an_array_library_alone_is_enough() -> None:
    code = """
import sys
for name in ("numba", "torch", "dask", "zarr", "cupy", "scipy"):
    sys.modules[name] = None
import numpy as np
from cte_dask.consistency import METRICS, metric
from cte_dask.consistency.binary import binary_agreement
counts = binary_agreement(np.array([0.9, 0.8]), np.array([0.9, 0.2]))
assert [metric(m).name for m in METRICS if m in ("nhd", "ei")] == ["nhd", "ei"]
print(counts.nhd)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0.5", done.stderr


# --- what is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"perturbed": np.zeros((2, 4), "float32")}, ValueError, "one shape"),
        ({"perturbed": np.zeros((2, 3), "float64")}, TypeError, "float32, perturbed is float64"),
        ({"threshold": math.nan}, ValueError, "threshold nan"),
        ({"threshold": -0.1}, ValueError, "at least 0"),
        ({"reference": [0.1], "perturbed": [0.2]}, TypeError, "NumPy or CuPy"),
        (
            {k: np.zeros((2, 3), "complex64") for k in ("reference", "perturbed")},
            TypeError,
            "complex64",
        ),
    ],
)
def test_unfit_maps_are_refused_with_the_reason(change: dict, error: type, message: str) -> None:
    zero = np.zeros((2, 3), "float32")
    given_ = {"reference": zero, "perturbed": zero, "threshold": 0.5, **change}
    with pytest.raises(error, match=message):
        binary_agreement_batch(
            given_["reference"], given_["perturbed"], threshold=given_["threshold"]
        )


@pytest.mark.parametrize(
    "cores",
    [
        [(slice(0, 2),)],
        [(slice(0, 9), slice(0, 1))],
        [(slice(0, 4, 2), slice(0, 1))],
        [(slice(3, 1), slice(0, 1))],
        [],
    ],
)
def test_cores_outside_their_frame_are_refused(cores: list) -> None:
    p, q = maps(7, (1, 4, 4))
    with pytest.raises(ValueError, match="core"):
        binary_agreement_batch(p, q, cores=cores)


@pytest.mark.gpu
def test_gpu_counts_what_the_cpu_counts() -> None:
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    for dtype in FLOATS:
        p, q = maps(8, (5, 3, 50, 70), dtype)
        cores = [(slice(0, 3), slice(i, 40), slice(7, 61 - i)) for i in range(5)]
        wanted = binary_agreement_batch(p, q, cores=cores)
        found = binary_agreement_batch(cupy.asarray(p), cupy.asarray(q), cores=cores)
        assert_allclose(found.get(), wanted, rtol=1e-12)
