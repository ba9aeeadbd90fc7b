from __future__ import annotations

import numpy as np
import pytest

from cte_dask.volume.box import Box, parse_roi, triple

SHAPE = (8, 64, 100)


@pytest.mark.parametrize(
    ("roi", "start", "stop"),
    [
        (None, (0, 0, 0), SHAPE),
        ("1:3,4:20,30:31", (1, 4, 30), (3, 20, 31)),
        (" 1:, :20 ,:", (1, 0, 0), (8, 20, 100)),
        ("4:20,30:31", (0, 4, 30), (8, 20, 31)),
        ((slice(1, 3), slice(None), slice(30, None)), (1, 0, 30), (3, 64, 100)),
        ((slice(0, np.int64(8)), slice(0, 64), slice(5, 6, 1)), (0, 0, 5), (8, 64, 6)),
    ],
)
def test_a_roi_names_a_box_of_the_array(roi: object, start: object, stop: object) -> None:
    assert parse_roi(roi, SHAPE) == Box(start, stop)


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        ("3:3,:,:", "is empty: z 3:3"),
        ("5:2,:,:", "is empty: z 5:2"),
        (":,:,10:101", "out of range: x 10:101, the target has x 0:100"),
        (":,-1:5,:", "out of range: y -1:5"),
        ("9:12,:,:", "out of range: z 9:12"),
        ("1:2", "want z0:z1,y0:y1,x0:x1"),
        ("1:2,3:4,5:6,7:8", "want z0:z1,y0:y1,x0:x1"),
        ("1,2,3", "'1' is not low:high"),
        ("1:2:3,:,:", "'1:2:3' is not low:high"),
        ("a:b,:,:", "'a:b' is not low:high"),
        ((slice(0, 8, 2), slice(None), slice(None)), "a step along z"),
        ((1, 2, 3), "want z0:z1,y0:y1,x0:x1"),
    ],
)
def test_a_bad_roi_is_refused_with_its_value(roi: object, message: str) -> None:
    with pytest.raises(ValueError, match="roi") as caught:
        parse_roi(roi, SHAPE)
    assert message in str(caught.value)


def test_a_shown_box_is_read_back() -> None:
    box = Box((1, 2, 3), (4, 5, 6))
    assert parse_roi(str(box), SHAPE) == box


def test_an_empty_box_and_a_wrong_triple_are_refused() -> None:
    with pytest.raises(ValueError, match="empty box"):
        Box((0, 5, 0), (1, 5, 1))
    with pytest.raises(ValueError, match="has 2 entries"):
        triple((1, 2))
    with pytest.raises(TypeError, match="not a triple"):
        triple(3)
    with pytest.raises(TypeError, match="float"):
        triple((1.5, 2, 3))
