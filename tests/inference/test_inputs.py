"""What a network sees: inverted contrast."""

from __future__ import annotations

import numpy as np

from cte_dask.inference.inputs import inverted
from cte_dask.inference.preprocess import preprocess
from cte_dask.models.preprocessing import Step, required_percentiles
from cte_dask.volume import open_volume
from cte_dask.volume.statistics import IntensityStatistics, intensity_statistics


def statistics(image: np.ndarray, percentiles: list[float]) -> IntensityStatistics:
    return intensity_statistics(open_volume(image), percentiles=percentiles, seed=0)


def test_inverted_contrast_is_one_minus_the_canonical_image():
    image = np.random.default_rng(0).gamma(2, 30, (2, 64, 64)).astype(np.float32)
    steps = (Step(name="scale_range", kwargs={"min_percentile": 1, "max_percentile": 99.8}),)
    needed = required_percentiles(steps, invert=True)
    assert needed == {99.0, 100 - 99.8}, "of the target as it is"
    intensity = statistics(image, sorted(needed | {1.0, 99.8}))
    low, high = intensity.percentile(1.0), intensity.percentile(99.8)
    turned = low + high - image
    got = preprocess([image], inverted(steps, [low], [high]), [intensity])
    want = preprocess([turned], steps, [statistics(turned, [1.0, 99.8])])
    np.testing.assert_allclose(got, want, atol=2e-3)
    (raw,) = preprocess([image], inverted((), [low], [high]), [intensity])
    canonical = (image - low) / (high - low)
    np.testing.assert_allclose((raw - low) / (high - low), 1 - canonical, atol=1e-5)
