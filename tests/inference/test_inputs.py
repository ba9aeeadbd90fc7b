"""What a network sees: inverted contrast, one channel in several inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cte_dask.inference.inputs import inverted, samples
from cte_dask.inference.preprocess import preprocess
from cte_dask.models.preprocessing import Step, required_percentiles
from cte_dask.models.spec import ModelSpec
from cte_dask.perturb.views import TileContext, view_of
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


@pytest.mark.parametrize("invert", [False, True])
def test_one_channel_in_several_inputs_has_the_numbers_of_each_input(invert):
    image = np.random.default_rng(0).gamma(2, 30, (1, 64, 64)).astype(np.float32)
    intensity = statistics(image, [1.0, 99.8])
    steps = [
        {"name": "fixed_zero_mean_unit_variance", "kwargs": {"mean": [1, 2, 3], "std": [4, 5, 6]}},
        {"name": "scale_linear", "kwargs": {"gain": 2}, "channel": 2},
    ]
    spec = ModelSpec(name="m", format="torchscript", source="s", in_channels=3, preprocessing=steps)
    view = view_of(None, TileContext((1, 64, 64), 2, (0, 0, 0), (1, 1, 1)))
    options = {"view": view, "intensity": [intensity], "like": torch.empty(0), "invert": invert}
    x = samples(image[None, None], spec, **options)
    seen = intensity.low + intensity.high - image if invert else image
    for number, (mean, std, gain) in enumerate(((1, 4, 1), (2, 5, 1), (3, 6, 2))):
        expected = (seen[0] - mean) / std * gain
        np.testing.assert_allclose(x[0, number], expected, rtol=1e-5, atol=1e-4)
