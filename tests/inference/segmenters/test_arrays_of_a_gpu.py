"""Segmenters on arrays of a GPU: the same objects, and nothing goes to the host unannounced."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import standin_cupy

from cte_dask.consistency.contingency import border_band
from cte_dask.consistency.instance import v_rand
from cte_dask.inference.segmenters import Segmenter, segmenter

FLOODED = {"to host": 3, "to device": 1}  # landscape, seeds and mask; labels
JOINED = {"to host": 5, "to device": 2}  # and regions and boundary; objects
TRANSFERS: dict[str, dict[str, int]] = {
    "components": {},
    "distance_watershed": FLOODED,
    "boundary_watershed": FLOODED,
    "multicut": JOINED,
    "gasp": JOINED,
    "mutex": {"to host": 2, "to device": 1},  # affinities and mask; labels
}
OFFSETS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (-3, 0, 0), (0, -4, 0), (0, 0, -4))
BETWEEN_BOUNDARIES = ("boundary_watershed", "multicut", "gasp")


def make(name: str, **parameters: Any) -> Segmenter:
    if name == "mutex":
        parameters["offsets"] = OFFSETS
    return segmenter(name, **parameters)


def objects() -> np.ndarray:
    """Balls that touch, one apart, and a speck."""
    z, y, x = np.ogrid[:18, :40, :44]
    labels = np.zeros((18, 40, 44), np.int32)
    centres = [(9, 10, 10), (9, 10, 25), (9, 28, 20), (3, 36, 40)]
    for number, (centre, radius) in enumerate(zip(centres, (8, 8, 6, 1), strict=True), start=1):
        a, b, c = centre
        labels[((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 <= radius**2) & (labels == 0)] = number
    return labels


def maps_for(name: str) -> np.ndarray:
    """What a network would say of the objects, with some noise: nothing is exactly equal."""
    labels = objects()
    inside = labels > 0
    if name == "mutex":
        shifted = (np.roll(labels, [-step for step in offset], (0, 1, 2)) for offset in OFFSETS)
        channels = [*((labels == other) & inside for other in shifted), inside]
    elif name in BETWEEN_BOUNDARIES:
        channels = [border_band(labels, 1) & inside, inside]
    else:
        channels = [inside]
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (len(channels), *labels.shape))
    return (0.2 + 0.6 * np.stack(channels) + noise).astype(np.float32)


@pytest.fixture
def standin(monkeypatch):
    for name, module in standin_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    standin_cupy.TRANSFERS.clear()
    return sys.modules["cupy"]


@pytest.mark.parametrize("name", TRANSFERS)
@pytest.mark.parametrize("parameters", [{}, {"min_size": 20}])
def test_a_segmenter_stays_on_the_gpu_but_for_what_it_says(standin, name, parameters):
    model, maps = make(name, **parameters), maps_for(name)
    wanted = model(maps)
    assert wanted.max() > 0
    there = standin.asarray(maps)
    standin_cupy.TRANSFERS.clear()
    labels = model(there)
    noted = Counter(direction for direction, _ in standin_cupy.TRANSFERS)
    if parameters and name in BETWEEN_BOUNDARIES:  # a speck is flooded again, by its neighbours
        noted -= Counter(FLOODED)
    assert noted == TRANSFERS[name]
    assert isinstance(labels, standin.ndarray)
    assert labels.dtype == np.int32
    # SciPy's distances and those of bioimage-cpp may differ in the last place
    assert v_rand(wanted, labels.get()) > 0.999
    assert int(labels.max()) == wanted.max()


def test_the_standin_refuses_what_cupy_refuses(standin):
    here, there = np.ones(3), standin.asarray(np.ones(3))
    for wrong in (lambda: here + there, lambda: np.asarray(there), lambda: standin.where(here)):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(TypeError):
        there.max(initial=0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRANSFERS)
def test_gpu_segments_as_the_processor_does(name):
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    if name != "components":
        pytest.importorskip("bioimage_cpp")
    model, maps = make(name, min_size=20), maps_for(name)
    wanted, labels = model(maps), model(cupy.asarray(maps))
    assert isinstance(labels, cupy.ndarray)
    assert labels.dtype == np.int32
    # sums in another order: a voxel between two seeds may fall to either
    assert v_rand(wanted, labels.get()) > 0.99
