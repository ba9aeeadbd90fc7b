"""Intensity statistics: exact where all is read, seeded and bounded where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from cte_dask.volume import (
    IntensityStatistics,
    Volume,
    VolumeReadError,
    intensity_statistics,
    open_volume,
)

Write = Callable[..., str]
NUMBERS = ["u1", "u2", "i4", "i8", "f2", "f4", "f8"]


@given(
    data=st.sampled_from(NUMBERS).flatmap(
        lambda d: arrays(
            d,
            (3, 4, 5),
            elements={"min_value": 0, "max_value": 100}
            if d[0] != "f"
            else {"allow_nan": False, "min_value": -1000, "max_value": 1000},
        )
    ),
    percentiles=st.lists(st.floats(0, 100), min_size=1, max_size=4, unique=True).map(sorted),
)
@examples(80)
def test_a_target_read_whole_is_described_as_numpy_does(
    data: NDArray[Any], percentiles: list[float]
) -> None:
    exact = data.astype(np.float64)
    expected = {q: float(np.percentile(exact, q)) for q in percentiles}
    if exact.min() == exact.max() or (
        len(percentiles) > 1 and expected[percentiles[0]] >= expected[percentiles[-1]]
    ):
        with pytest.raises(ValueError, match=r"is constant|has no contrast|hardly tells"):
            intensity_statistics(open_volume(data), percentiles=percentiles)
        return
    if 0 < np.abs(exact).max() < np.finfo(np.float32).tiny:
        with pytest.raises(ValueError, match=r"hardly tells from 0: multiply"):
            intensity_statistics(open_volume(data), percentiles=percentiles)
        return
    statistics = intensity_statistics(open_volume(data), percentiles=percentiles)
    assert statistics.percentiles == expected
    assert statistics.mean == pytest.approx(exact.mean(), rel=1e-12, abs=1e-12)
    assert statistics.std == pytest.approx(exact.std(), rel=1e-9)
    assert (statistics.minimum, statistics.maximum) == (exact.min(), exact.max())
    assert (statistics.n_voxels, statistics.nan_fraction, statistics.n_units) == (60, 0.0, 1)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_percentiles_agree_with_numpy_to_the_last_bit(dtype: str) -> None:
    data = (1000 * np.random.default_rng(5).normal(size=(1, 37, 41))).astype(dtype)
    percentiles = np.linspace(0, 100, 237).tolist()
    statistics = intensity_statistics(open_volume(data), percentiles=percentiles).percentiles
    assert list(statistics.values()) == np.percentile(data.astype(np.float64), percentiles).tolist()


def test_the_result_does_not_depend_on_the_chunks(voxels: NDArray[Any], write_array: Write) -> None:
    results = {
        json.dumps(intensity_statistics(open_volume(path, roi="1:,3:,:20")).to_dict())
        for path in (
            write_array(voxels, "a", chunks=(6, 20, 26)),
            write_array(voxels, "b", chunks=(1, 7, 3)),
            write_array(voxels, "c", chunks=(2, 4, 4), shards=(4, 8, 16)),
            write_array(voxels, "d", chunks=(4, 4, 4), zarr_format=2),
        )
    }
    assert len(results) == 1


def test_percentiles_keep_the_order_asked_for(voxels: NDArray[Any]) -> None:
    statistics = intensity_statistics(open_volume(voxels), percentiles=(5, 0, 100, 95))
    assert list(statistics.percentiles) == [5, 0, 100, 95]
    assert statistics.low == statistics.percentile(5) == np.percentile(voxels, 5)
    assert statistics.high == statistics.percentile(95.0) == np.percentile(voxels, 95)
    with pytest.raises(ValueError, match=r"percentile 50 was not computed: these were 5, 0, 100"):
        statistics.percentile(50)


def test_statistics_survive_json_and_sorting_of_its_keys(voxels: NDArray[Any]) -> None:
    statistics = intensity_statistics(open_volume(voxels), percentiles=(1.0, 0.1, 99.95, 99.8))
    again = IntensityStatistics.from_dict(
        json.loads(json.dumps(statistics.to_dict(), sort_keys=True))
    )
    assert again == statistics
    assert again.high == statistics.percentile(99.8)


def test_voxels_that_are_not_finite_are_left_out_and_counted() -> None:
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    statistics = intensity_statistics(open_volume(data))
    finite = data[np.isfinite(data)]
    assert statistics.percentile(1) == np.percentile(finite.astype(np.float64), 1)
    assert (statistics.n_voxels, statistics.nan_fraction) == (57, 3 / 60)
    assert (statistics.minimum, statistics.maximum) == (3, 59)


def test_only_the_roi_and_the_mask_count(voxels: NDArray[Any]) -> None:
    mask = voxels % 3 == 0
    statistics = intensity_statistics(open_volume(voxels, mask=mask, roi="1:5,:,3:"))
    counted = voxels[1:5, :, 3:][mask[1:5, :, 3:]]
    assert statistics.n_voxels == counted.size
    assert statistics.percentile(99.8) == np.percentile(counted, 99.8)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.full((2, 3, 4), np.nan), {}, "holds no finite voxel among 24 voxels looked at"),
        (np.full((2, 3, 4), 7.5), {}, "is constant: every voxel looked at is 7.5"),
        (np.full((2, 3, 4), 7), {"percentiles": (50,)}, "is constant: every voxel looked at is 7"),
        (np.eye(20)[np.newaxis], {"percentiles": (1, 90)}, "percentiles 1 and 90 are both 0"),
        (np.eye(20)[np.newaxis], {"percentiles": ()}, "must be one or more of 0 to 100"),
        (np.eye(20)[np.newaxis], {"percentiles": (1, 101)}, "must be one or more of 0 to 100"),
        (np.eye(20)[np.newaxis], {"percentiles": (99, 1)}, "the first must be below the last"),
        (np.eye(20)[np.newaxis], {"percentiles": (np.nan,)}, "must be one or more of 0 to 100"),
        (np.eye(20)[np.newaxis], {"seed": -1}, "seed must be at least 0, not -1"),
        (np.eye(20)[np.newaxis], {"max_voxels": 0}, "max_voxels must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_described_is_named(
    data: NDArray[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        intensity_statistics(open_volume(data), **options)
    assert message in str(caught.value)


def test_an_empty_mask_is_named(voxels: NDArray[Any]) -> None:
    volume = open_volume(voxels, mask=np.zeros(voxels.shape, bool))
    with pytest.raises(ValueError, match="among 0 voxels looked at within its mask"):
        intensity_statistics(volume)


def test_an_empty_sparse_array_is_told_from_a_constant_one(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(4, 8, 8), chunks=(4, 4, 4), dtype="u1", fill_value=9)
    with pytest.raises(ValueError, match=r"looked at is 9 \(the array omits all of its 4"):
        intensity_statistics(open_volume(tmp_path / "a"))


def large(shape: tuple[int, int, int] = (16, 64, 64), **options: Any) -> tuple[Volume, Any]:
    """Return a volume whose voxels are their own numbers, so that a sample can be told."""
    data = np.arange(1, 1 + np.prod(shape), dtype=np.uint32).reshape(shape)
    array = zarr.create_array(MemoryStore(), shape=shape, dtype=data.dtype, **options)
    array[...] = data
    return open_volume(array), data


def test_a_large_target_is_sampled_in_whole_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, data = large(chunks=(4, 8, 8))
    boxes = []
    real = Volume.read
    monkeypatch.setattr(Volume, "read", lambda v, a, b: boxes.append((a, b)) or real(v, a, b))
    statistics = intensity_statistics(volume, max_voxels=2**14)
    assert statistics.n_voxels == 2**14
    assert statistics.n_units == len(boxes) == len(set(boxes)) == 64
    assert all(a % c == 0 for low, _ in boxes for a, c in zip(low, (4, 8, 8), strict=True))
    read = np.concatenate([data[tuple(map(slice, a, b))].ravel() for a, b in boxes])
    assert statistics.percentile(1) == np.percentile(read, 1)
    assert statistics.mean == pytest.approx(read.mean())


def test_a_sample_is_the_same_for_a_seed_and_another_for_another() -> None:
    volume, _ = large(chunks=(4, 8, 8))
    first, again, other = (
        intensity_statistics(volume, max_voxels=2**12, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.mean != other.mean


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (16, 64, 64)},
        {"chunks": (1, 8, 8)},
        {"chunks": (4, 8, 8), "shards": (16, 64, 64)},
        {"chunks": (5, 7, 9)},
    ],
    ids=["one chunk", "small chunks", "one shard", "uneven chunks"],
)
def test_a_sample_is_bounded_and_fair_however_the_array_is_chunked(options: dict[str, Any]) -> None:
    volume, data = large(**options)
    samples = [intensity_statistics(volume, max_voxels=2**13, seed=seed) for seed in range(10)]
    assert all(0 < f.n_voxels <= 2**13 for f in samples)
    assert all(8 <= f.n_units <= 80 for f in samples)
    # 10 samples of 1/8 of the voxels: their mean is near that of all
    assert np.mean([f.mean for f in samples]) == pytest.approx(data.mean(), rel=0.1)


def test_a_sample_keeps_to_the_roi_and_the_mask() -> None:
    _, data = large(chunks=(4, 8, 8))
    mask = np.zeros(data.shape, bool)
    mask[:, 20:50] = True
    inside = open_volume(data, mask=mask, roi="3:,5:,7:60")
    statistics = intensity_statistics(inside, max_voxels=2**12)
    region = data[3:, 20:50, 7:60]
    assert region.min() <= statistics.minimum <= statistics.maximum <= region.max()
    assert statistics.n_voxels <= 2**12


def test_omitted_chunks_are_skipped_and_counted() -> None:
    shape = (16, 64, 64)
    array = zarr.create_array(MemoryStore(), shape=shape, dtype="u2", chunks=(4, 8, 8))
    array[4:8, 8:40] = np.random.default_rng(0).integers(5, 50, (4, 32, 64))
    statistics = intensity_statistics(open_volume(array), max_voxels=2**12)
    assert statistics.minimum >= 5
    assert statistics.n_units_missing > 0
    assert statistics.n_units == 16


@pytest.mark.parametrize("max_voxels", [2**12, 2**20], ids=["drawn", "whole"])
def test_a_corrupt_chunk_is_left_out_of_the_sample_and_counted(
    tmp_path: Path, max_voxels: int
) -> None:
    data = np.random.default_rng(0).integers(5, 50, (16, 64, 64)).astype("u2")
    data[:4] = 1000
    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=data, chunks=(4, 64, 64))
    (path / "c" / "0" / "0" / "0").write_bytes(b"damaged")
    statistics = intensity_statistics(open_volume(str(path)), max_voxels=max_voxels)
    assert statistics.maximum < 50
    assert statistics.n_units_unreadable > 0
    assert IntensityStatistics.from_dict(json.loads(json.dumps(statistics.to_dict()))) == statistics


def test_a_store_of_which_nothing_can_be_read_is_told_after_few_tries(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    zarr.create_array(path, data=np.arange(2**16, dtype="u2").reshape(16, 64, 64), chunks=(1, 8, 8))
    for chunk in path.glob("c/*/*/*"):
        chunk.write_bytes(b"damaged")
    with pytest.raises(VolumeReadError, match="cannot read"):
        intensity_statistics(open_volume(str(path)), max_voxels=2**12)


def test_a_sample_without_any_stored_chunk_is_an_error() -> None:
    empty = zarr.create_array(MemoryStore(), shape=(16, 64, 64), dtype="u2", chunks=(4, 8, 8))
    with pytest.raises(
        ValueError, match="no intensities found in 256 of 256 chunks drawn: 256 are"
    ):
        intensity_statistics(open_volume(empty), max_voxels=2**12)
    _, data = large(chunks=(4, 8, 8))
    masked = open_volume(data, mask=np.zeros(data.shape, bool))
    with pytest.raises(ValueError, match="lie outside the mask"):
        intensity_statistics(masked, max_voxels=2**12)
    nothing = open_volume(np.full(data.shape, np.nan))
    with pytest.raises(ValueError, match="no finite voxel among 4096 voxels"):
        intensity_statistics(nothing, max_voxels=2**12)


def test_a_target_of_damaged_chunks_is_an_error(voxels: NDArray[Any], write_array: Write) -> None:
    path = Path(write_array(voxels))
    for chunk in path.glob("c/*/*/*"):
        chunk.write_bytes(b"nonsense")
    with pytest.raises(OSError, match=r"cannot read|cannot be read"):
        intensity_statistics(open_volume(path))


@pytest.mark.parametrize("dtype", ["i8", "u8", "f8"])
def test_intensities_that_single_precision_cannot_tell_apart_are_refused(dtype: str) -> None:
    data = np.random.default_rng(0).integers(0, 255, (1, 16, 16)).astype(dtype)
    open_and_describe = lambda array: intensity_statistics(open_volume(array))  # noqa: E731
    assert open_and_describe(data + np.array(2**24).astype(dtype)).low < 2**24 + 10
    with pytest.raises(ValueError, match=r"steps of 131072 only: subtract 10995116277\d\d from"):
        open_and_describe(data + np.array(2**40).astype(dtype))


def test_numbers_beyond_single_precision_are_refused() -> None:
    data = np.random.default_rng(0).normal(size=(1, 16, 16))
    data[0, 3, 3] = 1e300
    with pytest.raises(ValueError, match=r"holds 1e\+300, more than single precision can"):
        intensity_statistics(open_volume(data))


def labels_and_image() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return boxes numbered from 1 on background 0, and the same as noisy intensities."""
    labels = np.kron(np.arange(64).reshape(8, 8) * (np.indices((8, 8)).sum(0) % 2), np.ones((9, 9)))
    noise = np.random.default_rng(0).normal(20, 2, labels.shape)
    return labels.astype("u2")[None], (labels + noise).astype("u2")[None]


@pytest.mark.parametrize("kind", ["labels", "mask"])
def test_labels_and_masks_are_doubted_as_images(kind: str) -> None:
    labels, image = labels_and_image()
    voxels = labels if kind == "labels" else (labels > 0).astype("u1") * 255
    statistics = intensity_statistics(open_volume(voxels))
    assert statistics.equal_fraction > 0.95
    assert "looks like labels or a mask: 100%" in statistics.doubt
    again = IntensityStatistics.from_dict(json.loads(json.dumps(statistics.to_dict())))
    assert again == statistics
    assert intensity_statistics(open_volume(image)).doubt == ""


def test_of_an_image_the_description_is_what_it_was_before_labels_were_looked_for() -> None:
    _, image = labels_and_image()
    assert "equal_fraction" not in intensity_statistics(open_volume(image)).to_dict()
    padded = np.pad(image, ((0, 0), (0, 90), (0, 0)), constant_values=255)  # white resin
    for voxels in (padded, image.astype("f4"), np.where(image > 20, image, 0)):
        assert intensity_statistics(open_volume(voxels)).doubt == ""
