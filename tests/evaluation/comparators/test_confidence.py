"""Label-free comparators: values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cte_dask.evaluation.comparators.confidence import foreground_confidence, foreground_entropy


@pytest.mark.parametrize(
    ("probability", "entropy", "confidence"),
    [
        ([1.0, 1.0, 0.0], 0.0, 1.0),
        ([0.75, 0.1], 0.8112781244591328, 0.75),  # of 3/4 and 1/4, in bits
        ([1.0, 0.75], 0.4056390622295664, 0.875),
        ([0.5, 0.2], math.nan, math.nan),  # 0.5 is not above the threshold
        ([1.5, 1.0], 0.0, 1.0),  # no probability: clipped
    ],
)
def test_only_the_predicted_foreground_counts(probability, entropy, confidence):
    p = np.array(probability, np.float32)
    assert foreground_entropy(p) == pytest.approx(entropy, nan_ok=True)
    assert foreground_confidence(p) == pytest.approx(confidence, nan_ok=True)


def test_the_threshold_is_that_of_the_model():
    p = np.array([0.3, 0.25])
    assert foreground_confidence(p, threshold=0.25) == pytest.approx(0.7)  # of p = 0.3
    assert foreground_entropy(np.array([0.5]), threshold=0.25) == 1.0
