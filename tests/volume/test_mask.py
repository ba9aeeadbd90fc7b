from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cte_dask.volume import open_volume, write_ome_zarr
from cte_dask.volume.mask import mask_factors

ZERO = (0, 0, 0)


@pytest.fixture
def chosen(voxels: NDArray[Any]) -> NDArray[np.bool_]:
    return voxels % 3 == 0


def test_without_a_mask_there_is_none(voxels: NDArray[Any]) -> None:
    volume = open_volume(voxels)
    assert volume.mask is None
    assert volume.read_mask(ZERO, volume.shape) is None


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
def test_a_mask_of_the_same_shape_is_read_where_the_voxels_are(
    dtype: str, voxels: NDArray[Any], chosen: NDArray[np.bool_], tmp_path: Path
) -> None:
    stored = chosen.astype(dtype) * (1 if dtype == "bool" else 5)
    zarr.array(stored, store=tmp_path / "mask.zarr", chunks=(4, 4, 4))
    for mask in (stored, tmp_path / "mask.zarr"):
        volume = open_volume(voxels, mask=mask, roi="1:5,:,3:")
        got = volume.read_mask((0, 2, 1), (4, 9, 20))
        assert got is not None
        assert got.dtype == bool
        np.testing.assert_array_equal(got, chosen[1:5, 2:9, 4:23])
        assert not volume.notes


def test_a_plane_is_the_mask_of_every_plane(
    voxels: NDArray[Any], chosen: NDArray[np.bool_]
) -> None:
    volume = open_volume(voxels, mask=chosen[0])
    expected = np.broadcast_to(chosen[0], voxels.shape)
    np.testing.assert_array_equal(volume.read_mask(ZERO, volume.shape), expected)


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    factors=st.tuples(*[st.integers(1, 4)] * 3),
    up=st.booleans(),
    data=st.data(),
)
@examples(50)
def test_a_smaller_mask_stands_for_its_nearest_voxels(
    shape: tuple[int, int, int], factors: tuple[int, int, int], up: bool, data: st.DataObject
) -> None:
    small = tuple(-(-n // f) if up else max(1, n // f) for n, f in zip(shape, factors, strict=True))
    mask = np.random.default_rng(0).integers(0, 2, small).astype(bool)
    per_voxel = mask_factors(small, shape)
    assert per_voxel is not None
    expected = mask
    for axis in range(3):
        index = np.minimum(np.arange(shape[axis]) // per_voxel[axis], small[axis] - 1)
        expected = expected.take(index, axis=axis)
    volume = open_volume(np.zeros(shape, np.uint8), mask=mask)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    box = tuple(map(slice, start, stop))
    np.testing.assert_array_equal(volume.read_mask(start, stop), expected[box])


def test_the_factors_of_a_pyramid_are_found() -> None:
    assert mask_factors((50, 100, 100), (100, 400, 401)) == (2, 4, 4)
    assert mask_factors((3, 5, 5), (3, 10, 11)) == (1, 2, 2)
    assert mask_factors((3, 6, 5), (3, 11, 10)) == (1, 2, 2)


def test_a_smaller_mask_is_reported(voxels: NDArray[Any], chosen: NDArray[np.bool_]) -> None:
    volume = open_volume(voxels, mask=chosen[::2, ::2, ::2])
    assert volume.notes == ("each voxel of the mask stands for (2, 2, 2) (z, y, x) of the target",)


def test_a_label_image_masks_at_the_level_that_fits(voxels: NDArray[Any], tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    labels = (voxels % 4).astype(np.int32)
    write_ome_zarr(
        path, voxels, axes="zyx", voxel_size_nm=(4, 4, 4), chunks=(4, 8, 8), labels={"a": labels}
    )
    volume = open_volume(path, level=1, mask=path / "labels" / "a")
    expected = labels[::2, ::2, ::2] != 0
    np.testing.assert_array_equal(volume.read_mask(ZERO, volume.shape), expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((6, 20, 27), bool), "of shape (6, 20, 27) does not fit the target (6, 20, 26)"),
        (np.ones((6, 20, 17), bool), "want the same shape, or smaller by whole factors"),
        (np.ones((7, 20, 26), bool), "does not fit"),
        (np.ones((6, 20, 26), np.float32), "has float32 elements: want integers"),
        (np.ones((2, 6, 20, 26), bool), "has 4 axes"),
        ("/no/such/mask", "/no/such/mask does not exist"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_at_opening(
    mask: object, message: str, voxels: NDArray[Any]
) -> None:
    with pytest.raises(ValueError, match=r"mask|does not exist|axes") as caught:
        open_volume(voxels, mask=mask)
    assert message in str(caught.value)
