"""The simulated volume of nuclei."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from cte_dask.demo.simulate import MICROSCOPE, SPECIMEN, Microscope, simulate_nuclei

SHAPE = (12, 160, 192)
DARK_ROOM = Microscope(
    focus=(0, 0, 0),
    glare_fraction=0,
    attenuation=0,
    unevenness=0,
    haze=0,
    photons=1000,
    read_noise=0,
    offset=0,
)


def test_the_same_seed_gives_the_same_volume_and_another_another() -> None:
    image, labels = simulate_nuclei(SHAPE, seed=3)
    again, labels_again = simulate_nuclei(SHAPE, seed=3)
    other, _ = simulate_nuclei(SHAPE, seed=4)
    assert np.array_equal(image, again)
    assert np.array_equal(labels, labels_again)
    assert not np.array_equal(image, other)


def test_types_and_labels_without_gaps() -> None:
    image, labels = simulate_nuclei(SHAPE)
    assert image.shape == labels.shape == SHAPE
    assert (image.dtype, labels.dtype) == (np.dtype(np.uint16), np.dtype(np.int32))
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_without_a_microscope_light_is_where_the_nuclei_are() -> None:
    specimen = replace(SPECIMEN, debris=0)
    image, labels = simulate_nuclei(SHAPE, specimen=specimen, microscope=DARK_ROOM)
    assert (image[labels == 0] == 0).all()
    assert (image[labels > 0] > 0).mean() > 0.999


def test_nuclei_have_the_size_asked_for() -> None:
    specimen = replace(SPECIMEN, diameter=20, size_spread=0, filling=0.08)
    _, labels = simulate_nuclei((24, 256, 256), specimen=specimen)
    volumes = np.bincount(labels.ravel())[1:] * specimen.anisotropy
    widest = np.percentile(volumes, 80)  # those cut by the edge are smaller
    assert 16 < 2 * np.cbrt(widest * 3 / (4 * np.pi)) < 24
    assert 0.04 < (labels > 0).mean() < 0.1


def test_nuclei_are_in_one_piece() -> None:
    _, labels = simulate_nuclei(SHAPE, specimen=replace(SPECIMEN, filling=0.05))
    pieces = [ndimage.label(labels == n)[1] for n in range(1, labels.max() + 1)]
    assert np.mean(np.array(pieces) == 1) > 0.9  # a few are cut by the one before


def test_light_fades_and_blurs_with_depth() -> None:
    shape = (24, 160, 160)
    image, labels = simulate_nuclei(shape, microscope=replace(MICROSCOPE, unevenness=0))
    signal = image - MICROSCOPE.offset
    inside = [np.median(plane[truth > 0]) for plane, truth in zip(signal, labels, strict=True)]
    ratio = np.mean(inside[-6:]) / np.mean(inside[:6])
    assert 0.5 * np.exp(-MICROSCOPE.attenuation) < ratio < 0.8


def test_debris_is_bright_and_not_a_nucleus() -> None:
    clean = simulate_nuclei(SHAPE, specimen=replace(SPECIMEN, debris=0), microscope=DARK_ROOM)
    dirty = simulate_nuclei(SHAPE, specimen=replace(SPECIMEN, debris=2), microscope=DARK_ROOM)
    assert np.array_equal(clean[1], dirty[1])
    assert (dirty[0][dirty[1] == 0] > 300).any()


def test_an_empty_specimen_is_background_only() -> None:
    image, labels = simulate_nuclei(SHAPE, specimen=replace(SPECIMEN, filling=0))
    assert not labels.any()
    assert MICROSCOPE.offset < image.mean() < MICROSCOPE.offset + 2 * MICROSCOPE.photons


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 1, 1)])
def test_flat_and_tiny_volumes_are_made(shape: tuple[int, int, int]) -> None:
    image, _ = simulate_nuclei(shape)
    assert image.shape == shape


@pytest.mark.parametrize("shape", [(0, 8, 8), (8, 8)])
def test_a_shape_without_voxels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"three extents \(z, y, x\)"):
        simulate_nuclei(shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"diameter": 0.0}, {"anisotropy": -1.0}, {"filling": 0.6}, {"filling": -0.1}]
)
def test_an_impossible_specimen_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="filling is from 0"):
        simulate_nuclei(SHAPE, specimen=replace(SPECIMEN, **wrong))
