"""CCFV on constructed features: its equations, and what they must say of extreme cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import sqrtm

from cte_dask.evaluation.comparators.ccfv import (
    TileFeatures,
    ccfv,
    class_consistency,
    feature_variety,
    tile_features,
)


def gaussian(mean, covariance) -> TileFeatures:
    return TileFeatures(np.array(mean, float), np.array(covariance, float), 1.0)


def drawn(seed: int, *, shift: float = 0.0, spread: float = 1.0, n: int = 300) -> TileFeatures:
    rng = np.random.default_rng(seed)
    return tile_features(
        rng.standard_normal((n, 6)) + shift, spread * rng.standard_normal((n, 6)) + 3
    )


def test_the_distance_of_two_gaussians_is_that_of_the_equation():
    one, other = gaussian([0.0], [[4.0]]), gaussian([3.0], [[25.0]])
    assert class_consistency([one, other]) == pytest.approx(math.sqrt(9 + 9))  # 3², (5 - 2)²
    a = np.array([[2.0, 0.6], [0.6, 1.0]])
    b = np.array([[1.0, -0.4], [-0.4, 3.0]])
    wanted = np.trace(a) + np.trace(b) - 2 * np.trace(sqrtm(a @ b).real)
    found = class_consistency([gaussian([0, 0], a), gaussian([0, 0], b)])
    assert found**2 == pytest.approx(wanted)


def test_consistency_is_the_mean_over_the_pairs_of_tiles():
    tiles = [gaussian([m], [[1.0]]) for m in (0.0, 1.0, 3.0)]
    assert class_consistency(tiles) == pytest.approx((1 + 2 + 3) / 3)


def test_identical_class_distributions_are_the_most_consistent():
    same = drawn(0)
    assert class_consistency([same, same, same]) == pytest.approx(0, abs=1e-6)
    near = class_consistency([drawn(0), drawn(1), drawn(2)])
    far = class_consistency([drawn(0), drawn(1, shift=2.0), drawn(2, shift=-2.0)])
    assert 0 < near < far


def test_fewer_samples_than_channels_do_not_break_the_distance():
    rng = np.random.default_rng(0)
    tiles = [tile_features(rng.random((5, 32)), rng.random((5, 32))) for _ in range(3)]
    assert np.isfinite(class_consistency(tiles))


def test_variety_is_the_inverse_energy_of_the_pairs():
    v = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    floor = 1e-3 * (0 + 9 + 16) / 3
    energy = np.mean([(d * d + floor) ** -0.5 for d in (3.0, 4.0, 5.0)])
    assert tile_features(v, v).variety == pytest.approx(1 / energy)
    assert feature_variety([tile_features(v, v)] * 2) == pytest.approx(1 / energy)


def test_collapsed_features_have_less_variety():
    assert drawn(0, spread=1e-3).variety < 0.1 * drawn(0).variety
    constant = np.ones((50, 4))
    assert 0 < tile_features(constant, constant).variety < 0.1


def test_consistent_and_various_features_score_higher():
    good = [drawn(i) for i in range(4)]
    inconsistent = [drawn(i, shift=float(i)) for i in range(4)]
    collapsed = [drawn(i, spread=1e-3) for i in range(4)]
    assert ccfv([good]) > ccfv([inconsistent])
    assert ccfv([good]) > ccfv([collapsed])


def test_the_scale_of_the_features_does_not_matter():
    rng = np.random.default_rng(0)
    parts = [(rng.random((90, 5)), rng.random((90, 5))) for _ in range(4)]
    once = ccfv([[tile_features(f, e) for f, e in parts]])
    tenfold = ccfv([[tile_features(10 * f, 10 * e) for f, e in parts]])
    assert once == pytest.approx(tenfold)


def test_the_score_is_the_mean_over_layers_and_dead_layers_are_left_out():
    one, two = [drawn(i) for i in range(3)], [drawn(i + 9, shift=i) for i in range(3)]
    assert ccfv([one, two]) == pytest.approx((ccfv([one]) + ccfv([two])) / 2)
    dead = [replace(t, mean=np.zeros(6), covariance=np.zeros((6, 6))) for t in one]
    assert ccfv([one, dead]) == pytest.approx(ccfv([one]))
    assert math.isnan(ccfv([dead]))


def test_too_few_voxels_or_tiles_are_refused():
    with pytest.raises(ValueError, match="two voxels"):
        tile_features(np.ones((1, 3)), np.ones((9, 3)))
    with pytest.raises(ValueError, match="pairs of tiles"):
        class_consistency([drawn(0)])


def test_means_and_covariances_are_those_of_numpy():
    x = np.random.default_rng(0).random((40, 3))
    found = tile_features(x, x)
    assert_allclose(found.mean, x.mean(axis=0))
    assert_allclose(found.covariance, np.cov(x.T))
