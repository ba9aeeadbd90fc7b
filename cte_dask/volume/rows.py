"""A box of an array that lies in one piece in a file: where its rows are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cte_dask.storage.stored_file import Range
from cte_dask.volume.image import Selection

__all__ = ["box_of_rows", "rows"]


def rows(selection: Selection, shape: Sequence[int], itemsize: int, offset: int) -> list[Range]:
    """Return where the bytes of a box are: in few ranges, which hold all of its voxels.

    Rows are read whole, and planes of which all rows are wanted are one range with their
    neighbours.

    Parameters
    ----------
    selection
        The box, an index or a slice an axis.
    shape
        Extents of the array, in the order of the file.
    itemsize
        Bytes of an element.
    offset
        First byte of the array.

    Returns
    -------
    list of (int, int)
        First byte and number of bytes of each.

    Examples
    --------
    >>> rows((slice(1, 3), slice(0, 4), slice(0, 5)), (6, 4, 5), 2, 0)
    [(40, 80)]
    >>> rows((slice(1, 3), slice(1, 3), slice(2, 4)), (6, 4, 5), 2, 100)
    [(150, 20), (190, 20)]
    """
    extents, axis = _extents(selection), _axis(selection, shape)
    size = math.prod(shape[axis + 1 :]) * itemsize
    strides = [math.prod(shape[a + 1 :]) * itemsize for a in range(axis)]
    starts = (sum(map(int.__mul__, at, strides)) for at in product(*extents[:axis]))
    first, length = offset + extents[axis].start * size, len(extents[axis]) * size
    return [(first + start, length) for start in starts]


def box_of_rows(
    contents: Sequence[bytes], selection: Selection, shape: Sequence[int], dtype: DTypeLike
) -> NDArray[Any]:
    """Return the box of which `rows` told the ranges, from what they hold."""
    extents, axis = _extents(selection), _axis(selection, shape)
    stored = [*map(len, extents[: axis + 1]), *shape[axis + 1 :]]
    data = np.frombuffer(b"".join(contents), dtype).reshape(stored)
    ahead = [0 if isinstance(s, int) else slice(None) for s in selection[: axis + 1]]
    return data[(*ahead, *selection[axis + 1 :])].copy()


def _extents(selection: Selection) -> list[range]:
    return [range(s, s + 1) if isinstance(s, int) else range(s.start, s.stop) for s in selection]


def _axis(selection: Selection, shape: Sequence[int]) -> int:
    """Return the axis of which a range lies in one piece: those behind it are read whole."""
    extents, axis = _extents(selection), len(shape) - 2
    while axis > 0 and len(extents[axis]) == shape[axis]:
        axis -= 1
    return axis
