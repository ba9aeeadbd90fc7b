from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from cte_dask.consistency.contingency import border_band
from cte_dask.consistency.instance import (
    PAIR_STATISTICS,
    VRAND,
    pair_statistics_batch,
    v_rand,
    v_rand_of_pairs,
)
from tests.golden import array, cases, number


@st.composite
def labelings(draw: st.DrawFn, max_side: int = 5) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(max_dims=3, max_side=max_side))
    labels = hnp.arrays(np.int32, shape, elements=st.integers(0, 3))
    return draw(labels), draw(labels)


def by_enumeration(reference: np.ndarray, perturbed: np.ndarray, alpha: float) -> float:
    """Take every pair of distinct voxels of the union and ask who puts it into one object."""
    r, p = reference.ravel().tolist(), perturbed.ravel().tolist()
    union = [i for i in range(len(r)) if r[i] or p[i]]
    together = [(r[i] == r[j] != 0, p[i] == p[j] != 0) for i, j in combinations(union, 2)]
    in_r, in_p = (sum(side) for side in zip(*together, strict=True)) if together else (0, 0)
    if in_r + in_p == 0:
        return math.nan
    weight = alpha * in_p + (1 - alpha) * in_r
    return sum(a and b for a, b in together) / weight if weight else 0.0


# --- golden cases


@pytest.mark.parametrize("case", cases("VRAND"))
def test_v_rand_is_that_of_the_paper_in_pair_form(case: dict) -> None:
    border = case["params"]["num_dilations"] or 0
    found = v_rand(
        array(case["inputs"]["unperturbed"]),
        array(case["inputs"]["perturbed"]),
        alpha=case["params"]["alpha"],
        border=border,
    )
    expected = number(case["independent"]["pairs_singleton_bg"])
    assert_allclose(found, expected, atol=case["tolerance"], rtol=0)


@pytest.mark.parametrize("case", cases("VRAND"))
def test_the_union_holds_the_voxels_of_the_case(case: dict) -> None:
    pair = (array(case["inputs"][k])[None] for k in ("unperturbed", "perturbed"))
    row = pair_statistics_batch(*pair, border=case["params"]["num_dilations"] or 0)[0]
    assert row[PAIR_STATISTICS.index("n_union")] == case["independent"]["n_mask"]


@pytest.mark.parametrize("case", [c for c in cases("AGG") if c.id in ("agg_vrand_tiles", "absent")])
def test_tiles_score_by_themselves_and_not_like_the_whole(case: dict) -> None:
    whole = [array(case["inputs"][k]) for k in ("unperturbed", "perturbed")]
    expected = case["independent"]["value"]
    assert v_rand(*whole) == pytest.approx(expected, abs=case["tolerance"])
    tiles = [a.reshape(2, 16, 2, 16).transpose(0, 2, 1, 3).reshape(4, 16, 16) for a in whole]
    scores = VRAND(dict(zip(PAIR_STATISTICS, pair_statistics_batch(*tiles).T, strict=True)))
    assert_array_equal(scores, [v_rand(r, p) for r, p in zip(*tiles, strict=True)])
    assert abs(np.median(scores) - expected) > 1e-3


def test_a_cube_moved_by_a_voxel_scores_as_the_method_says() -> None:
    cube = np.pad(np.ones((6, 6, 6), int), 3)
    moved = np.roll(cube, (1, 1, 0), (0, 1, 2))
    assert v_rand(cube, moved) == pytest.approx(0.481, abs=5e-4)
    assert v_rand(cube, moved, border=1) == pytest.approx(0.910, abs=5e-4)


# --- definition and properties


@given(labelings(max_side=3), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_it_is_the_share_of_pairs_of_voxels_kept_together(pair: tuple, alpha: float) -> None:
    assert_allclose(v_rand(*pair, alpha=alpha), by_enumeration(*pair, alpha), rtol=1e-12)


@given(labelings(max_side=3), st.integers(1, 2))
def test_a_border_band_counts_in_neither_segmentation(pair: tuple, border: int) -> None:
    kept = ~border_band(pair[0], border)
    cut = pair[0][kept], pair[1][kept]
    assert_allclose(v_rand(*pair, border=border), by_enumeration(*cut, 0.5), rtol=1e-12)


@given(labelings(), st.permutations(range(1, 4)), st.permutations([1, 70_000, 2**40]))
def test_ids_do_not_matter(pair: tuple, first: list, second: list) -> None:
    renamed = np.array([0, *first])[pair[0]], np.array([0, *second])[pair[1]]
    assert_array_equal(v_rand(*renamed), v_rand(*pair))
    assert_array_equal(v_rand(*renamed, border=1), v_rand(*pair, border=1))


@given(labelings())
def test_the_two_sides_may_be_exchanged_at_alpha_one_half(pair: tuple) -> None:
    assert_array_equal(v_rand(*pair), v_rand(*pair[::-1]))
    assert_array_equal(v_rand(*pair, alpha=0.25), v_rand(*pair[::-1], alpha=0.75))


@given(labelings())
def test_equal_segmentations_score_one(pair: tuple) -> None:
    sizes = np.unique(pair[0][pair[0] > 0], return_counts=True)[1]
    assume(sizes.max(initial=0) > 1)
    assert v_rand(pair[0], pair[0].copy()) == 1.0


@given(labelings(), st.integers(0, 2))
def test_scores_lie_between_zero_and_one(pair: tuple, border: int) -> None:
    score = v_rand(*pair, border=border)
    assert math.isnan(score) or 0 <= score <= 1


# --- traps


def test_disjoint_foregrounds_score_zero() -> None:
    assert v_rand(np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])) == 0.0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_one_side_empty_scores_zero_and_both_empty_nothing(alpha: float) -> None:
    some, none = np.ones((3, 4), int), np.zeros((3, 4), int)
    assert v_rand(none, some, alpha=alpha) == 0.0  # hallucinated under perturbation
    assert v_rand(some, none, alpha=alpha) == 0.0
    assert math.isnan(v_rand(none, none, alpha=alpha))


def test_objects_of_one_voxel_say_nothing() -> None:
    assert math.isnan(v_rand(np.array([1, 0, 2]), np.array([1, 0, 2])))
    assert math.isnan(v_rand(np.array([1, 0, 2]), np.array([0, 0, 0])))
    assert v_rand(np.array([1, 2, 3]), np.array([1, 1, 0])) == 0.0


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_ids_beyond_uint16_stay_apart(dtype: str) -> None:
    ids = np.arange(1, 70_001, dtype=dtype)
    labels = np.repeat(ids, 3).reshape(700, 300)
    assert v_rand(labels, labels[:, ::-1][:, ::-1]) == 1.0
    aliased = labels.astype("uint16")
    assert v_rand(labels, aliased) < 1.0


def test_an_unknown_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha 1\.5 must be in"):
        v_rand(np.array([1]), np.array([1]), alpha=1.5)


# --- batches


def test_a_tile_of_a_batch_is_its_core_alone() -> None:
    rng = np.random.default_rng(0)
    r, p = (np.kron(rng.integers(0, 4, (3, 5, 6)), np.ones((1, 4, 4), int)) for _ in range(2))
    cores = [(slice(2, 18), slice(3, 20)), (slice(0, 20), slice(0, 24)), (slice(4, 4), slice(1, 2))]
    for border in (0, 1):
        rows = pair_statistics_batch(r, p, cores=cores, border=border)
        assert rows.dtype == np.int64
        for i, core in enumerate(cores):
            alone = pair_statistics_batch(r[i][core][None], p[i][core][None], border=border)
            assert_array_equal(rows[i], alone[0])
    assert rows[2].tolist() == [0, 0, 0, 0]


def test_a_batch_of_volumes_and_an_empty_batch_keep_their_shape() -> None:
    labels = np.ones((2, 3, 4, 5), np.uint16)
    assert pair_statistics_batch(labels, labels).tolist() == [[60 * 59] * 3 + [60]] * 2
    assert pair_statistics_batch(labels[:0], labels[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("cores", "match"),
    [
        ([(slice(0, 2), slice(0, 2))], "1 cores for 2 tiles"),
        ([(slice(0, 2),)] * 2, "one slice"),
        ([(slice(0, 9), slice(0, 2))] * 2, "one slice"),
        ([(slice(0, 4, 2), slice(0, 2))] * 2, "one slice"),
    ],
)
def test_a_core_outside_its_frame_is_refused(cores: list, match: str) -> None:
    labels = np.ones((2, 4, 4), int)
    with pytest.raises(ValueError, match=match):
        pair_statistics_batch(labels, labels, cores=cores)


def test_scores_of_many_tiles_come_from_their_statistics_alone() -> None:
    table = np.array([[2, 6, 2, 5], [0, 0, 0, 0], [0, 0, 0, 3], [0, 12, 0, 4]])
    assert VRAND.name == "vrand"
    assert VRAND.statistics == PAIR_STATISTICS
    scores = VRAND(dict(zip(PAIR_STATISTICS, table.T, strict=True)))
    assert_array_equal(scores, [0.5, np.nan, np.nan, 0.0])
    assert_array_equal(v_rand_of_pairs(*table.T, alpha=1.0), [1 / 3, np.nan, np.nan, 0.0])
