"""F1 against labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cte_dask.consistency.accuracy import f1, f1_of_counts, foreground_counts
from tests.golden import array, cases


@pytest.mark.parametrize("case", cases("F1"))
def test_f1_is_that_of_the_definition(case: dict) -> None:
    prediction = array(case["inputs"]["pred"]) > case["params"]["threshold"]
    found = f1(prediction, array(case["inputs"]["gt"]))
    assert found == pytest.approx(case["independent"]["value"], abs=case["tolerance"])


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ([0, 0], [0, 0], math.nan),
        ([1, 0], [0, 0], 0.0),
        ([0, 0], [1, 0], 0.0),
        ([1, 1, 0, 0], [1, 0, 1, 0], 0.5),
        ([1, 1], [7, 9], 1.0),
    ],
)
def test_f1_of_small_masks(prediction: list, truth: list, expected: float) -> None:
    found = f1(np.array(prediction, dtype=bool), np.array(truth))
    assert found == pytest.approx(expected, nan_ok=True)


def test_counts_of_tiles_add_up_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 8, 30, 30)) > 0.6
    parts = [foreground_counts(p, t) for p, t in zip(prediction, truth, strict=True)]
    assert tuple(np.sum(parts, axis=0)) == foreground_counts(prediction, truth)
    assert f1_of_counts(*np.sum(parts, axis=0)) == f1(prediction, truth)


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        f1(np.zeros(2), np.zeros((2, 1)))
