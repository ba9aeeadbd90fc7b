"""Overlaps of a bank's predictions: packed bits count what plain masks count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.consistency.instance import v_rand
from cte_dask.consistency.model_pairs import pair_table, pairs_of
from cte_dask.consistency.overlap import (
    label_overlaps,
    majority_overlaps,
    mask_overlaps,
    merged,
    packed,
)


def whole(shape) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return (a & b).sum() / union if union else np.nan


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 19)),
    models=st.integers(1, 5),
    tiles=st.integers(1, 3),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_packed_overlaps_are_those_of_plain_masks(shape, models, tiles, density, seed):
    rng = np.random.default_rng(seed)
    maps = [rng.random((tiles, *shape)).astype(np.float32) for _ in range(models)]
    cores = [tuple(slice(0, int(rng.integers(1, n + 1))) for n in shape) for _ in range(tiles)]
    masks = merged([packed([m], cores=cores, threshold=1 - density) for m in maps])
    found = mask_overlaps(masks)
    assert found.shape == (models * (models - 1) // 2, tiles)
    limit = np.float32(1 - density)
    for row, (i, j) in zip(found, pairs_of(models), strict=True):
        for tile, core in enumerate(cores):
            a, b = maps[i][tile][core] > limit, maps[j][tile][core] > limit
            np.testing.assert_equal(row[tile], iou(a, b))


def test_a_threshold_is_compared_in_the_dtype_of_the_maps():
    maps = np.full((1, 1, 1, 4), np.float32(0.3))
    words = packed([maps], cores=[whole((1, 1, 4))], threshold=0.3)
    assert not words.any()  # float32(0.3) is greater than the float64 0.3


def test_two_empty_predictions_say_nothing_and_one_empty_one_disagrees():
    maps = [np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), np.ones((1, 1, 2, 2))]
    cores = [whole((1, 2, 2))]
    masks = merged([packed([m], cores=cores, threshold=0.5) for m in maps])
    np.testing.assert_array_equal(mask_overlaps(masks)[:, 0], [np.nan, 0, 0])


def test_classes_are_compared_one_by_one_over_those_present():
    shape = (1, 1, 1, 4)
    a = [np.array([1, 1, 0, 0.0]), np.array([0, 0, 1, 0.0]), np.zeros(4)]
    b = [np.array([1, 0, 0, 0.0]), np.array([0, 0, 1, 0.0]), np.zeros(4)]
    cores = [whole((1, 1, 4))]
    packs = [packed([m.reshape(shape) for m in k], cores=cores, threshold=0.0) for k in (a, b)]
    assert mask_overlaps(merged(packs)).item() == pytest.approx((0.5 + 1) / 2)
    single = packed([np.array([1, 1, 1, 0.0]).reshape(shape)], cores=cores, threshold=0.0)
    # with another number of classes any foreground counts
    assert mask_overlaps(merged([packs[0], single])).item() == 1
    assert mask_overlaps(merged([packs[1], single])).item() == pytest.approx(2 / 3)


def test_labels_are_compared_by_v_rand():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, (2, 1, 6, 6)).astype(np.int32) for _ in range(3)]
    core = (slice(0, 1), slice(0, 6), slice(0, 4))
    found = label_overlaps(labels, cores=[core, core])
    for row, (i, j) in zip(found, pairs_of(3), strict=True):
        for tile in range(2):
            want = v_rand(labels[i][tile][core], labels[j][tile][core])
            assert row[tile] == pytest.approx(want)


@pytest.mark.parametrize("words", [4, 200])
def test_the_majority_is_that_of_the_votes(words, monkeypatch):
    from cte_dask.consistency import overlap

    monkeypatch.setattr(overlap, "UNPACKED_VOXELS", 128)
    rng = np.random.default_rng(1)
    shape = (1, 8, 8 * words)
    maps = [rng.random((1, *shape)) for _ in range(4)]
    cores = [whole(shape)]
    masks = merged([packed([m], cores=cores, threshold=0.5) for m in maps])
    votes = np.array([[0, 1, 1, 1.0], [2, 0, 1, 1.0], [1, 1, 0, 0], [0, 0, 0, 0]])
    found = majority_overlaps(masks, [votes])[:, 0]
    plain = [m[0] > 0.5 for m in maps]
    a, b, c, d = plain
    want = [
        iou(a, (b.astype(int) + c + d) > 1.5),
        iou(b, (2 * a.astype(int) + c + d) > 2),  # a tie is no majority
        iou(c, a & b),
        np.nan,
    ]
    np.testing.assert_allclose(found, want)


def test_a_table_of_pairs_is_symmetric():
    table = pair_table(np.array([0.1, 0.2, 0.3]), 3)
    np.testing.assert_array_equal(table, [[np.nan, 0.1, 0.2], [0.1, np.nan, 0.3],
                                          [0.2, 0.3, np.nan]])  # fmt: skip
