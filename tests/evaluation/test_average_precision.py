"""Average precision of instances: the golden case, the empty cases, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from golden import array, cases
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cte_dask.consistency.objects import average_precision

labels = hnp.arrays(np.int64, (6, 7), elements=st.integers(0, 4))


@pytest.mark.parametrize("case", cases("MAP"))
def test_golden(case):
    inputs = case["inputs"]
    got = average_precision(array(inputs["seg"]), array(inputs["gt"]))
    assert got == pytest.approx(case["independent"]["value"], abs=case["tolerance"])


def test_empty_cases():
    none, one = np.zeros((3, 3), int), np.ones((3, 3), int)
    assert math.isnan(average_precision(none, none))
    assert average_precision(one, none) == 0
    assert average_precision(none, one) == 0


def brute_force(prediction: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    objects = [[mask == i for i in np.unique(mask[mask > 0])] for mask in (prediction, truth)]
    hits = sum(
        any((p & t).sum() > threshold * (p | t).sum() for t in objects[1]) for p in objects[0]
    )
    return hits / (len(objects[0]) + len(objects[1]) - hits)


@given(labels, labels, st.sampled_from([0.5, 0.65, 0.8]))
def test_it_is_what_comparing_every_pair_gives(prediction, truth, threshold):
    got = average_precision(prediction, truth, thresholds=(threshold,))
    if not prediction.any() and not truth.any():
        assert math.isnan(got)
    else:
        assert got == pytest.approx(brute_force(prediction, truth, threshold))


@given(labels, st.permutations(range(1, 5)))
def test_ids_do_not_matter(prediction, order):
    renamed = np.array([0, *order])[prediction] * 70_000
    if prediction.any():
        assert average_precision(prediction, renamed) == 1


def test_unfit_labels_are_refused():
    with pytest.raises(ValueError, match="must be alike"):
        average_precision(np.zeros(3, int), np.zeros(4, int))
    with pytest.raises(ValueError, match="negative"):
        average_precision(np.array([-1, 1]), np.array([0, 1]))
    with pytest.raises(ValueError, match="thresholds"):
        average_precision(np.array([1]), np.array([1]), thresholds=(0.2,))
