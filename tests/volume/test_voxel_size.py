from __future__ import annotations

import math

import pytest

from cte_dask.volume import VoxelSize
from cte_dask.volume.voxel_size import mismatch, nanometres, nearest_level


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("9.2,9.2,9.2 nm", (9.2, 9.2, 9.2)),
        ("50, 4,4nanometer", (50, 4, 4)),
        ("0.28 µm", (280, 280, 280)),
        ("0.28 μm", (280, 280, 280)),  # the Greek letter, not the micro sign
        ("1e-3,1E-3 mm", (None, 1000, 1000)),
        ("?,16,16 Å", (None, 1.6, 1.6)),
        ("2,1,1 Microns", (2000, 1000, 1000)),
        ("1 m", (1e9, 1e9, 1e9)),
    ],
)
def test_a_voxel_size_is_read_into_nanometre(text: str, lengths: object) -> None:
    assert VoxelSize.parse(text).lengths == lengths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9.2,9.2,9.2", "no known unit"),
        ("9.2 furlong", "no known unit"),
        ("9.2 Mm", "no known unit"),
        ("nm", "'' is not a length"),
        ("1,,2 nm", "'' is not a length"),
        ("1,2,3,4 nm", "want one, two"),
        ("0,1,1 nm", "must be positive"),
        ("-1 nm", "must be positive"),
        ("?,?,? nm", "must be positive"),
    ],
)
def test_a_voxel_size_without_a_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"voxel size") as caught:
        VoxelSize.parse(text)
    assert message in str(caught.value)


def test_a_shown_voxel_size_is_read_back() -> None:
    for size in (VoxelSize(None, 9.2, 9.25), VoxelSize(0.1, 1e7, 3)):
        assert VoxelSize.parse(str(size)) == size


def test_a_voxel_size_comes_in_three_forms() -> None:
    size = VoxelSize(50, 4, 4)
    assert VoxelSize.of(size) is size
    assert VoxelSize.of("50,4,4 nm") == size == VoxelSize.of((50, 4, 4))
    assert VoxelSize.of([4, 4]) == VoxelSize(None, 4, 4)
    with pytest.raises(TypeError, match="voxel size 4"):
        VoxelSize.of(4)
    with pytest.raises(ValueError, match="want three lengths"):
        VoxelSize.of((1, 2, 3, 4))


def test_an_unknown_unit_is_not_guessed() -> None:
    assert [nanometres(u) for u in ("parsec", "", None, 3, "MM", "pixel")] == [None] * 6


def test_mismatch_is_a_log_ratio_of_the_axes_both_know() -> None:
    a, b = VoxelSize(10, 10, 20), VoxelSize(None, 20, 20)
    assert mismatch(a, b) == pytest.approx((math.log(2) / 2, 0))
    assert mismatch(a, VoxelSize(20, None, None)) == pytest.approx((0, math.log(2)))
    assert mismatch(VoxelSize(1, None, None), b) is None


def test_the_nearest_level_goes_by_ratio_in_the_plane_then_along_z() -> None:
    # 7 nm is nearer to 4 by difference from 4 and 12, by ratio too; 6.95 and 4*sqrt(3) tell
    sizes = [VoxelSize(40, 4, 4), VoxelSize(40, 12, 12), VoxelSize(120, 36, 36)]
    assert nearest_level(sizes, VoxelSize(None, 6.8, 6.8)) == 0
    assert nearest_level(sizes, VoxelSize(None, 7.5, 7.5)) == 1  # by difference it would be 0
    assert nearest_level(sizes, VoxelSize(120, 12, 12)) == 1  # the plane decides, not z
    flat = [VoxelSize(10, 4, 4), VoxelSize(20, 4, 4), VoxelSize(40, 4, 4)]
    assert nearest_level(flat, VoxelSize(25, 4, 4)) == 1
    assert nearest_level(flat, VoxelSize(None, 4, 4)) == 0
    assert nearest_level([None, VoxelSize(None, None, 3)], VoxelSize(None, 4, 4)) == 1
    assert nearest_level([None, None], VoxelSize(4, 4, 4)) is None
