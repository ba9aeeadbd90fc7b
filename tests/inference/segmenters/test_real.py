"""Segmenters against the labels of real microscopy, given a network that is nearly right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cte_dask.consistency.contingency import border_band
from cte_dask.consistency.instance import v_rand
from cte_dask.inference.segmenters import segmenter

pytestmark = pytest.mark.data


def noisy(truth: np.ndarray, noise: float = 0.1) -> np.ndarray:
    """A probability map: the truth blurred by half a voxel, with noise."""
    soft = gaussian_filter(truth.astype(np.float32), 0.5)
    rough = soft + noise * np.random.default_rng(0).standard_normal(truth.shape)
    return np.clip(rough, 0, 1).astype(np.float32)


def count(labels: np.ndarray) -> int:
    return len(np.unique(labels[labels > 0]))


@pytest.mark.parametrize("pack", ["n_dsb_b256_fibro", "n_dsb_c256_clump", "n_mnf_u2os"])
def test_touching_nuclei_are_split_where_components_merge_them(data_dir: Path, pack: str) -> None:
    truths = np.load(data_dir / f"{pack}.npz")["label"][:6]
    scores = {"components": [], "distance_watershed": []}
    missing = {"components": 0, "distance_watershed": 0}
    for truth in truths.astype(np.int32):
        for name, values in scores.items():
            labels = segmenter(name, min_size=5)((truth > 0)[None].astype(np.float32))
            values.append(v_rand(truth, labels))
            missing[name] += abs(count(truth) - count(labels))
    medians = {name: np.median(values) for name, values in scores.items()}
    assert medians["distance_watershed"] > max(0.93, medians["components"])
    assert missing["distance_watershed"] < 0.25 * sum(map(count, truths))


def test_nuclei_in_a_volume_are_split_as_labelled(data_dir: Path) -> None:
    pack = np.load(data_dir / "v_go_nuclear_mini.npz")
    spacing = tuple(pack["voxel_nm"] / pack["voxel_nm"][-1])
    for crop in ("label_0", "label_1"):
        truth = pack[crop].astype(np.int32)
        maps = noisy(truth > 0)[None]
        split = segmenter("distance_watershed", spacing=spacing, min_size=20)(maps)
        merged = segmenter("components", min_size=20)(maps)
        assert v_rand(truth, split) > 0.9
        assert v_rand(truth, split) > v_rand(truth, merged)
        assert abs(count(split) - count(truth)) < 0.25 * count(truth)


@pytest.fixture(scope="module")
def ovule(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels of densely packed cells and the boundary map of a good network."""
    truth = np.load(data_dir / "v_ovule_crop.npz")["label"].astype(np.int32)
    boundary = gaussian_filter(border_band(truth, 1).astype(np.float32), 1.0)
    noise = 0.15 * np.random.default_rng(1).standard_normal(truth.shape)
    return truth, np.clip(boundary / boundary.max() + noise, 0, 1).astype(np.float32)[None]


@pytest.mark.parametrize(
    ("name", "least"), [("boundary_watershed", 0.94), ("multicut", 0.96), ("gasp", 0.96)]
)
def test_packed_cells_come_out_as_labelled(ovule: tuple, name: str, least: float) -> None:
    truth, boundary = ovule
    labels = segmenter(name, spacing=(235 / 150, 1.0, 1.0), min_size=50)(boundary)
    assert v_rand(truth, labels) > least
    assert abs(count(labels) - count(truth)) < 0.4 * count(truth)


def test_joining_regions_mends_what_the_watershed_cut(ovule: tuple) -> None:
    truth, boundary = ovule
    options = {"sigma": 1.0, "sigma_height": 1.0}
    regions = segmenter("boundary_watershed", **options)(boundary)
    for name in ("multicut", "gasp"):
        mended = segmenter(name, **options)(boundary)
        assert count(mended) < count(regions) / 3
        assert v_rand(truth, mended) > v_rand(truth, regions) + 0.1


def test_affinities_give_packed_cells_back(ovule: tuple) -> None:
    truth = ovule[0][:16, :64, :64]
    offsets = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (-3, 0, 0), (0, -5, 0), (0, 0, -5))
    shifted = [np.roll(truth, [-o for o in offset], (0, 1, 2)) for offset in offsets]
    affinities = np.stack([0.1 + 0.8 * (truth == other) for other in shifted])
    rough = affinities + 0.1 * np.random.default_rng(2).standard_normal(affinities.shape)
    labels = segmenter("mutex", offsets=offsets, min_size=20)(np.clip(rough, 0, 1))
    assert v_rand(truth, labels) > 0.98
