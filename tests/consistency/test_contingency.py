from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from cte_dask.consistency import _numba_pairs, _sorted_pairs, contingency
from cte_dask.consistency.contingency import PairCounts, border_band, pair_counts

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def without_numba() -> Iterator[None]:
    """The implementation of the GPU, run by NumPy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contingency.importlib.util, "find_spec", lambda name: None)
        assert contingency._implementation(np)[0] is _sorted_pairs.pair_sums
        yield


BOTH = pytest.mark.parametrize("implementation", [nullcontext, without_numba])


def counted(reference: np.ndarray, perturbed: np.ndarray, mask: np.ndarray | None = None) -> tuple:
    """The definition with background voxels as objects of their own, id by id, in Python ints."""
    pairs = zip(reference.ravel().tolist(), perturbed.ravel().tolist(), strict=True)
    kept = [True] * reference.size if mask is None else mask.ravel().tolist()
    union = [
        ((r or ("background", i)), (p or ("background", i)))
        for i, (r, p) in enumerate(pairs)
        if kept[i] and (r or p)
    ]
    tables = Counter(union), Counter(p for _, p in union), Counter(r for r, _ in union)
    sums = [sum(c * c for c in table.values()) - len(union) for table in tables]
    foreground = (sum(isinstance(o, int) for o in side) for side in zip(*union, strict=True))
    return *sums, len(union), *(foreground if union else (0, 0)), sum(kept)


@st.composite
def labelings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(max_dims=3, max_side=6))
    ids = st.integers(0, 4)
    sides = []
    for _ in range(2):
        dtype = draw(
            st.sampled_from(["uint8", "int16", "uint16", "int32", ">i4", "int64", "uint64"])
        )
        top = draw(st.sampled_from([5, np.iinfo(dtype).max]))
        labels = draw(hnp.arrays(dtype, shape, elements=ids))
        sides.append(np.where(labels == 4, np.array(top, dtype), labels).astype(dtype))
    return sides[0], sides[1]


# --- definition


@given(labelings())
def test_counts_are_those_of_the_definition(pair: tuple) -> None:
    assert pair_counts(*pair) == counted(*pair)


@given(labelings(), st.integers(0, 99))
def test_counts_under_a_mask_are_those_of_the_voxels_it_keeps(pair: tuple, seed: int) -> None:
    mask = np.random.default_rng(seed).random(pair[0].shape) < 0.6
    assert pair_counts(*pair, mask=mask) == counted(*pair, mask)


@given(labelings())
def test_the_sorting_implementation_counts_the_same(pair: tuple) -> None:
    with without_numba():
        assert pair_counts(*pair) == counted(*pair)


@BOTH
def test_many_objects_in_many_chunks_lose_no_voxel(implementation, monkeypatch) -> None:
    for module in (_numba_pairs, _sorted_pairs):
        monkeypatch.setattr(module, "CHUNK_VOXELS", 1000)
    rng = np.random.default_rng(0)
    r, p = (rng.integers(0, 70_000, (11, 60, 70)) for _ in range(2))
    r[:, :, :40] = np.arange(40) // 4  # runs
    p[:, :, :50] = np.arange(50) // 6
    mask = rng.random(r.shape) < 0.9
    with implementation():
        assert pair_counts(r, p, mask=mask) == counted(r, p, mask)


@BOTH
def test_strided_views_count_like_copies(implementation) -> None:
    rng = np.random.default_rng(1)
    r, p = (rng.integers(0, 5, (9, 12, 10), dtype=np.int32) for _ in range(2))
    view = np.ascontiguousarray(r.transpose(2, 0, 1)).transpose(1, 2, 0)[::-1, 1::2, ::3]
    other = p[::-1, 1::2, ::3]
    view.flags.writeable = False
    with implementation():
        assert pair_counts(view, other) == counted(view, other)


def test_pair_counts_of_a_full_size_tile_do_not_overflow() -> None:
    # 2**31 voxels that share 16 bytes of memory would take long to scan: two table rows do as well.
    table = np.array([[3, 4, 2**31 - 1], [0, 4, 1], [0, 0, 0], [0, 0, 0]], dtype=np.int64)
    n = 2**31
    assert _numba_pairs._pairs_of_column(table, 1) == (n * (n - 1), n)
    assert _numba_pairs._pairs_of_column(table, 0) == ((n - 1) * (n - 2), n - 1)


def test_background_is_never_given_an_id() -> None:
    empty = np.zeros((4, 5), np.int32)
    assert pair_counts(empty, empty) == PairCounts(0, 0, 0, 0, 0, 0, 20)
    blank = np.zeros((0, 3, 3), np.int64)
    assert pair_counts(blank, blank) == PairCounts(0, 0, 0, 0, 0, 0, 0)


# --- border


def band_by_search(labels: np.ndarray, width: int) -> np.ndarray:
    """Compare each voxel with every other within `width` steps through faces."""
    band = np.zeros(labels.shape, bool)
    voxels = list(np.ndindex(labels.shape))
    for a in voxels:
        for b in voxels:
            near = sum(abs(i - j) for i, j in zip(a, b, strict=True)) <= width
            band[a] |= near and labels[a] != labels[b]
    return band


@given(
    hnp.arrays(np.int16, hnp.array_shapes(max_dims=3, max_side=4), elements=st.integers(0, 2)),
    st.integers(1, 3),
)
def test_the_band_holds_the_voxels_within_its_width_of_another_label(labels, width) -> None:
    assert_array_equal(border_band(labels, width), band_by_search(labels, width))


def test_the_band_and_a_mask_both_leave_out() -> None:
    r = np.array([1, 1, 1, 1, 2, 2, 2, 2])
    mask = np.array([False] + [True] * 7)
    counts = pair_counts(r, r, border=1, mask=mask)
    assert counts == PairCounts(2 + 6, 2 + 6, 2 + 6, 5, 5, 5, 5)


# --- input is checked where it enters


@pytest.mark.parametrize(
    ("reference", "perturbed", "options", "error", "match"),
    [
        (np.array([1, -2]), np.array([1, 1]), {}, ValueError, "reference holds the label -2"),
        (np.array([1, 1]), np.array([-1, 1]), {}, ValueError, "perturbed holds the label -1"),
        (np.array([1.0]), np.array([1]), {}, TypeError, "must be integers, not float64"),
        (np.array([1]), np.array([1, 1]), {}, ValueError, "one shape"),
        (np.array(1), np.array(1), {}, ValueError, "one to three axes"),
        (np.ones((1,) * 4, int), np.ones((1,) * 4, int), {}, ValueError, "one to three axes"),
        (np.array([1]), np.array([1]), {"border": -1}, ValueError, "border -1"),
        (np.array([1]), np.array([1]), {"border": 0.5}, TypeError, "integer"),
        (np.array([1]), np.array([1]), {"mask": np.array([1])}, TypeError, "mask must be bool"),
        (np.array([1]), np.array([1]), {"mask": np.array([True] * 2)}, ValueError, "one shape"),
    ],
)
def test_bad_input_is_named(reference, perturbed, options, error, match) -> None:
    with pytest.raises(error, match=match):
        pair_counts(reference, perturbed, **options)


def test_a_tile_beyond_the_bound_of_the_sums_is_refused() -> None:
    huge = np.broadcast_to(np.zeros(1, np.uint8), (2**11, 2**11, 2**9 + 1))
    with pytest.raises(ValueError, match="more than 2147483648 voxels"):
        pair_counts(huge, huge)


# --- memory

MEASURE = """
import resource, sys
import numpy as np
from cte_dask.consistency.contingency import pair_counts
pair_counts(np.ones((4, 4, 4), np.int32), np.ones((4, 4, 4), np.int32))
n, edge = {n}, {edge}
def cells(shift):
    axis = (np.arange(n, dtype=np.int32) + shift) // edge
    per = int(axis[-1]) + 1
    labels = np.empty((n, n, n), np.int32)
    np.add.outer(axis * per * per, np.add.outer(axis * per, axis) + 1, out=labels)
    return labels
r, p = cells(0), cells(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = pair_counts(r, p)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, r.nbytes, int(r.max()), counts.n_union)
"""


@pytest.mark.slow
def test_a_crowded_tile_needs_less_than_four_times_its_bytes() -> None:
    code = MEASURE.format(n=256, edge=4)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    grown, tile, objects, union = map(int, done.stdout.split())
    assert objects > 250_000
    assert union == 256**3
    assert grown < 4 * tile


@given(
    st.integers(1, 3).flatmap(
        lambda n: hnp.arrays(
            np.uint64,
            st.tuples(st.integers(0, 40), st.just(n)),
            elements=st.sampled_from([0, 1, 2, 2**63, 2**64 - 1]),
        )
    )
)
def test_distinct_rows_are_ascending_and_counted(rows: np.ndarray) -> None:
    found, counts = _sorted_pairs.distinct_rows(rows)
    wanted, wanted_counts = np.unique(rows, axis=0, return_counts=True)
    assert_array_equal(found, wanted)
    assert_array_equal(counts, wanted_counts)
