from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cte_dask.consistency.contingency import border_band
from cte_dask.consistency.instance import v_rand
from cte_dask.inference.segmenters import SEGMENTERS, Segmenter, segmenter, to_core

ROOT = Path(__file__).resolve().parents[3]
CUTTING = [name for name in SEGMENTERS if name != "components"]
BETWEEN_BOUNDARIES = ["boundary_watershed", "multicut", "gasp"]
OFFSETS = {
    2: ((-1, 0), (0, -1), (-4, 0), (0, -4)),
    3: ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (-3, 0, 0), (0, -4, 0), (0, 0, -4)),
}
CENTRES = ((14, 12, 12), (28, 25, 12))
every = pytest.mark.parametrize("name", SEGMENTERS)
axes = pytest.mark.parametrize("rank", [2, 3])


def make(name: str, rank: int, **parameters: Any) -> Segmenter:
    if name == "mutex":
        parameters.setdefault("offsets", OFFSETS[rank])
    return segmenter(name, **parameters)


def balls(rank: int, *centres: int, radius: int = 8, shape: int = 44) -> np.ndarray:
    """Labelled balls along the last axis; a voxel that lies in two is the nearer one's."""
    extent = (18, 24, shape)[-rank:]
    grid = np.stack(np.meshgrid(*map(np.arange, extent), indexing="ij"))
    middle = np.array(extent).reshape(-1, *(1,) * rank) // 2
    distances = []
    for centre in centres:
        position = middle.copy()
        position[-1] = centre
        distances.append(np.sqrt(((grid - position) ** 2).sum(axis=0)))
    if not distances:
        return np.zeros(extent, np.int32)
    nearest = np.argmin(distances, axis=0).astype(np.int32) + 1
    return np.where(np.min(distances, axis=0) <= radius, nearest, 0).astype(np.int32)


def maps_of(labels: np.ndarray, model: Segmenter) -> np.ndarray:
    """What a good network with the channels of a segmenter would say."""
    channels = []
    for name in model.channels:
        if name == "foreground":
            probable = labels > 0
        elif name == "boundary":
            probable = border_band(labels, 1) & (labels > 0)
        else:
            offset = tuple(int(step) for step in name.removeprefix("affinity (")[:-1].split(","))
            there = np.roll(labels, [-o for o in offset], range(labels.ndim))
            probable = (labels == there) & (labels > 0)
        channels.append(0.1 + 0.8 * probable)
    return np.stack(channels).astype(np.float32)


# --- the contract, for every segmenter listed


@every
@axes
def test_touching_objects_are_told_apart(name: str, rank: int) -> None:
    truth = balls(rank, 15, 30)
    model = make(name, rank)
    labels = model(maps_of(truth, model))
    assert labels.shape == truth.shape
    assert labels.dtype == np.int32
    if name == "components":
        assert labels.max() == 1
    else:
        assert labels.max() == 2
        assert v_rand(truth, labels) > 0.99
    assert_array_equal(labels > 0, truth > 0)


@every
@axes
def test_an_empty_foreground_has_no_objects(name: str, rank: int) -> None:
    model = make(name, rank)
    labels = model(maps_of(balls(rank), model))
    assert labels.dtype == np.int32
    assert not labels.any()


@every
@axes
def test_a_single_object_is_one(name: str, rank: int) -> None:
    truth = balls(rank, 20)
    model = make(name, rank)
    assert_array_equal(model(maps_of(truth, model)), truth)


@every
def test_objects_are_numbered_from_one_without_gaps(name: str) -> None:
    truth = np.concatenate([balls(2, 10, 32), balls(2, 20), balls(2, 12, 34)])
    model = make(name, 2, min_size=10)
    labels = model(maps_of(truth, model))
    assert np.unique(labels).tolist() == list(range(6))


@every
def test_the_same_maps_give_the_same_labels_again(name: str) -> None:
    rng = np.random.default_rng(0)
    model = make(name, 3)
    maps = np.clip(
        maps_of(balls(3, 10, 20, 31), model) + 0.3 * rng.standard_normal((18, 24, 44)), 0, 1
    )
    first = model(maps.astype("float32"))
    assert first.max() > 1
    for _ in range(3):
        assert_array_equal(model(maps.astype("float32")), first)


@every
def test_maps_are_read_in_any_layout_and_not_written(name: str) -> None:
    model = make(name, 2)
    maps = maps_of(balls(2, 15, 30), model)
    labels = model(maps)
    other = np.ascontiguousarray(maps.T).T
    other.flags.writeable = False
    assert_array_equal(model(other), labels)
    assert_array_equal(model(maps[:, ::-1])[::-1] > 0, labels > 0)
    assert_array_equal(model(maps.astype(np.float16)), labels)
    assert_array_equal(maps, maps_of(balls(2, 15, 30), model))


@every
def test_a_plane_is_segmented_as_a_volume_of_one_plane(name: str) -> None:
    truth = balls(2, 15, 30)
    flat = make(name, 2)
    offsets = tuple((0, *offset) for offset in OFFSETS[2])
    deep = make(name, 3, **({"offsets": offsets} if name == "mutex" else {}))
    maps = maps_of(truth, flat)
    assert_array_equal(deep(maps[:, None])[0], flat(maps))


@every
def test_small_objects_go_and_large_ones_too_when_asked(name: str) -> None:
    small, large = balls(2, 15, radius=3), balls(2, 22, radius=9)
    sizes = [int(small.sum()), int(large.sum())]
    maps = maps_of(np.concatenate([small, 2 * large]), make(name, 2))
    for limits, expected_sizes in [
        ({}, sizes),
        ({"min_size": sizes[0], "max_size": sizes[1]}, sizes),
        ({"min_size": sizes[0] + 1}, sizes[1:]),
        ({"max_size": sizes[1] - 1}, sizes[:1]),
    ]:
        labels = make(name, 2, **limits)(maps)
        assert np.bincount(labels.ravel())[1:].tolist() == expected_sizes


@every
def test_a_segmenter_is_a_value(name: str) -> None:
    model = make(name, 2, min_size=3)
    assert isinstance(model, Segmenter)
    assert pickle.loads(pickle.dumps(model)) == model
    assert model != make(name, 2, min_size=4)
    assert len({model, make(name, 2, min_size=3)}) == 1


@every
def test_a_failed_prediction_is_not_segmented(name: str) -> None:
    model = make(name, 2)
    maps = maps_of(balls(2, 15), model)
    maps[0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model(maps)


@every
def test_the_wrong_channels_are_named(name: str) -> None:
    model = make(name, 2)
    maps = np.zeros((len(model.channels) + 1, 8, 8), np.float32)
    with pytest.raises(ValueError, match="must be \\(C, y, x\\)"):
        model(maps)
    with pytest.raises(ValueError, match="must be \\(C, y, x\\)"):
        model(maps[0])


@every
@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"min_size": -1}, "min_size -1"),
        ({"min_size": 5, "max_size": 4}, "max_size 4"),
        ({"max_size": 0}, "max_size 0"),
        ({"threshold": 1.0}, "threshold 1.0"),
        ({"foreground_threshold": -0.1}, "threshold -0.1"),
        ({"connectivity": 4}, "connectivity 4"),
        ({"sigma": float("nan")}, "sigma nan"),
        ({"sigma_height": -1.0}, "sigma_height -1"),
        ({"seed_distance": 0.5}, "seed_distance 0.5"),
        ({"alpha": 1.5}, "alpha 1.5"),
        ({"beta": 0.0}, "beta 0.0"),
        ({"spacing": (1.0, 1.0)}, "spacing"),
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing"),
        ({"strides": (2,)}, "strides"),
        ({"offsets": ((-4, 0), (-1, 0))}, "one step first"),
        ({"offsets": ((-4, 0),)}, "single step"),
        ({"offsets": ((0, 0), (-1, 0))}, "none may be zero"),
        ({"offsets": ((-1, 0), (-1, 0, 0))}, "all be"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(name: str, bad: dict, match: str) -> None:
    parameters = {f.name for f in fields(make(name, 2))}
    error = ValueError if set(bad) <= parameters else TypeError
    with pytest.raises(error, match=match if error is ValueError else next(iter(bad))):
        make(name, 2, **bad)


# --- what each one promises beyond


@pytest.mark.parametrize(("connectivity", "count"), [(1, 3), (2, 2), (3, 1)])
def test_connectivity_joins_through_faces_edges_or_corners(connectivity: int, count: int) -> None:
    foreground = np.zeros((1, 3, 3, 3))
    for voxel in [(0, 0, 0), (0, 1, 1), (1, 2, 2)]:
        foreground[0][voxel] = 1
    assert segmenter("components", connectivity=connectivity)(foreground).max() == count


def test_the_threshold_is_strict_and_in_the_dtype_of_the_map() -> None:
    level = np.full((1, 2, 2), 0.3, np.float32)
    assert not segmenter("components", threshold=0.3)(level).any()
    assert segmenter("components", threshold=0.3)(np.nextafter(level, np.float32(1))).all()


def test_watersheds_keep_small_objects_near_large_ones() -> None:
    truth = np.zeros((40, 40), np.int32)
    truth[5:30, 5:30] = 1
    truth[10:12, 32:34] = 2
    model = segmenter("distance_watershed", seed_distance=12)
    labels = model((truth > 0)[None].astype(np.float32))
    assert v_rand(truth, labels) == 1.0


def test_spacing_gives_distances_their_true_length_along_a_coarse_axis() -> None:
    grid = np.stack(np.meshgrid(np.arange(12) * 4, np.arange(40), np.arange(24), indexing="ij"))
    far = [np.sqrt(((grid - np.array(c).reshape(3, 1, 1, 1)) ** 2).sum(0)) for c in CENTRES]
    truth = np.where(np.min(far, axis=0) <= 10.5, np.argmin(far, axis=0) + 1, 0)
    maps = (truth > 0)[None].astype(np.float32)
    plain = segmenter("distance_watershed")(maps)
    spaced = segmenter("distance_watershed", spacing=(4.0, 1.0, 1.0))(maps)
    assert spaced.max() == 2
    assert v_rand(truth, spaced) > max(0.95, v_rand(truth, plain))


@pytest.mark.parametrize("name", ["multicut", "gasp"])
def test_regions_are_joined_across_weak_boundaries_only(name: str) -> None:
    boundary = np.full((20, 45), 0.05, np.float32)
    boundary[:, 14:16], boundary[:, 29:31] = 0.35, 0.9
    options = {"threshold": 0.2, "sigma": 0.0, "sigma_height": 0.0}
    counts = [
        segmenter(name, beta=beta, **options)(boundary[None]).max() for beta in (0.02, 0.5, 0.8)
    ]
    assert segmenter("boundary_watershed", **options)(boundary[None]).max() == 3
    assert counts == [1, 2, 3]
    halves = segmenter(name, **options)(boundary[None])
    assert len(np.unique(halves[:, :30])) == 1
    assert len(np.unique(halves[:, 30:])) == 1


@pytest.mark.parametrize("name", BETWEEN_BOUNDARIES)
def test_without_a_foreground_channel_all_between_boundaries_is_an_object(name: str) -> None:
    boundary = np.full((1, 20, 30), 0.1, np.float32)
    assert_array_equal(segmenter(name)(boundary), np.ones((20, 30)))
    assert not segmenter(name, max_size=500)(boundary).any()
    assert not segmenter(name)(np.ones((1, 20, 30), np.float32)).any()
    boundary[:, :, 12:14] = 0.9
    assert segmenter(name)(boundary).max() == 2


@pytest.mark.parametrize("name", BETWEEN_BOUNDARIES)
def test_small_objects_between_boundaries_go_to_their_neighbours(name: str) -> None:
    boundary = np.full((1, 30, 40), 0.05, np.float32)
    boundary[:, :, 9:11] = 0.9
    boundary[:, :, 15:17] = 0.9
    options = {"sigma": 0.5, "sigma_height": 0.0}
    assert segmenter(name, **options)(boundary).max() == 3
    labels = segmenter(name, min_size=250, **options)(boundary)
    assert labels.max() == 2
    assert (labels > 0).all()


@pytest.mark.parametrize("name", BETWEEN_BOUNDARIES)
def test_an_object_with_a_faint_boundary_is_not_joined_to_the_background(name: str) -> None:
    maps = np.full((2, 24, 40), 0.1, np.float32)
    maps[0, :, 19:21] = 0.9
    maps[1, 4:20, 4:36] = 0.9
    labels = segmenter(name)(maps)
    assert_array_equal(labels > 0, maps[1] > 0.5)
    assert labels.max() == 2


def test_without_a_background_no_place_is_deeper_than_another() -> None:
    from cte_dask.inference.segmenters.flooding import depth_of

    assert_array_equal(depth_of(np.ones((3, 4), bool), None), np.ones((3, 4)))


def test_strides_thin_out_long_affinities_only() -> None:
    truth = balls(3, 15, 30)
    model = make("mutex", 3, strides=(1, 2, 2))
    assert v_rand(truth, model(maps_of(truth, model))) > 0.99


# --- looking up


def test_an_unknown_segmenter_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'components'"):
        segmenter("component")
    with pytest.raises(ValueError, match="cannot be imported"):
        segmenter("no_such_package.module:Thing")


def test_a_segmenter_from_outside_is_taken_by_its_place() -> None:
    assert segmenter(
        "cte_dask.inference.segmenters.components:Components", min_size=2
    ).channels == ("foreground",)
    with pytest.raises(TypeError, match="not a Segmenter"):
        segmenter("builtins:dict")


def test_the_segmenters_are_listed_without_their_libraries() -> None:
    code = (
        "import sys, cte_dask.inference.segmenters as s; "
        "print(sorted({'scipy', 'bioimage_cpp', 'torch', 'dask', 'cupy'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert process.stdout.strip() == "[]", process.stderr


@pytest.mark.parametrize("name", CUTTING)
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bioimage_cpp", None)
    model = make(name, 2)
    with pytest.raises(ImportError, match=r"pip install 'cte-dask\[segment\]'"):
        model(maps_of(balls(2, 15, 30), model))


# --- the core


def test_the_core_is_cut_from_the_frame_with_its_ids() -> None:
    labels = np.arange(60, dtype=np.int32).reshape(3, 4, 5)
    core = (slice(1, 2), slice(0, 3), slice(2, 5))
    core_labels = to_core(labels, core)
    assert_array_equal(core_labels, labels[core])
    assert core_labels.flags.owndata
    assert core_labels.flags.c_contiguous


def test_an_object_cut_into_pieces_by_the_core_stays_one() -> None:
    horseshoe = np.ones((6, 9), np.float32)
    horseshoe[:4, 3:6] = 0
    labels = segmenter("components")(horseshoe[None])
    core_labels = to_core(labels, (slice(0, 4), slice(0, 9)))
    assert np.unique(core_labels).tolist() == [0, 1]


@pytest.mark.parametrize(
    "core", [(slice(0, 2),), (slice(0, 9), slice(0, 2)), (slice(0, 4, 2), slice(0, 2))]
)
def test_a_core_outside_its_frame_is_refused(core: tuple) -> None:
    with pytest.raises(ValueError, match="must have one slice"):
        to_core(np.zeros((4, 4), np.int32), core)
