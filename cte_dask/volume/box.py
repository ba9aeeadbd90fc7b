"""Boxes of voxels and the region of interest, without any I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cte_dask.tiles import Shape

__all__ = ["Box", "RoiLike", "parse_roi", "triple"]

RoiLike = str | Sequence[slice]


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxels.

    Parameters
    ----------
    start, stop
        Corners in voxels (z, y, x); ``stop`` is exclusive.

    Raises
    ------
    ValueError
        If the box is empty.
    """

    start: Shape
    stop: Shape

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"empty box: start {self.start}, stop {self.stop} (z, y, x)")

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))

    @property
    def shape(self) -> Shape:
        """Extent in voxels (z, y, x)."""
        z, y, x = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def shift(self, offset: Shape) -> Box:
        """Return the box moved by ``offset`` voxels (z, y, x)."""
        return Box(
            triple(a + o for a, o in zip(self.start, offset, strict=True)),
            triple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def inside(self, shape: Shape) -> bool:
        """Tell whether the box lies within an array of this shape (z, y, x)."""
        return min(self.start) >= 0 and all(b <= n for b, n in zip(self.stop, shape, strict=True))


def triple(values: object) -> Shape:
    """Return three integers of any integer type as a tuple of Python integers.

    Raises
    ------
    TypeError
        If an entry is not an integer or ``values`` cannot be iterated.
    ValueError
        If there are not exactly three.
    """
    import operator

    if not hasattr(values, "__iter__"):
        raise TypeError(f"{values!r} is not a triple of integers (z, y, x)")
    numbers = tuple(operator.index(value) for value in values)
    if len(numbers) != 3:
        raise ValueError(f"{numbers} has {len(numbers)} entries, want three (z, y, x)")
    z, y, x = numbers
    return z, y, x


def parse_roi(roi: RoiLike | None, shape: Shape) -> Box:
    """Return the region of interest within an array.

    Parameters
    ----------
    roi
        ``"z0:z1,y0:y1,x0:x1"`` or a triple of slices, in voxels of the selected level; an empty
        bound is the edge, two entries are y and x (every plane), None is the whole array.
    shape
        Extent of the array in voxels (z, y, x).

    Returns
    -------
    Box
        The region, in voxels of the array.

    Raises
    ------
    ValueError
        If the region is malformed, empty or reaches out of the array.

    Examples
    --------
    >>> print(parse_roi("4:,:,10:20", (8, 64, 64)))
    4:8,0:64,10:20
    """
    if roi is None:
        return Box((0, 0, 0), shape)
    entries = [_slice(text, roi) for text in roi.split(",")] if isinstance(roi, str) else list(roi)
    if len(entries) == 2:  # y and x of every plane
        entries = [slice(None), *entries]
    if len(entries) != 3 or not all(isinstance(entry, slice) for entry in entries):
        raise ValueError(f"roi {roi!r}: want z0:z1,y0:y1,x0:x1 (or y0:y1,x0:x1)")
    bounds = [_bounds(e, n, roi, a) for e, n, a in zip(entries, shape, "zyx", strict=True)]
    return Box(triple(low for low, _ in bounds), triple(high for _, high in bounds))


def _slice(text: str, roi: RoiLike) -> slice:
    bounds = text.strip().split(":")
    try:
        low, high = (int(bound) if bound.strip() else None for bound in bounds)
    except ValueError:
        raise ValueError(
            f"roi {roi!r}: {text!r} is not low:high; want z0:z1,y0:y1,x0:x1 in whole voxels"
        ) from None
    return slice(low, high)


def _bounds(entry: slice, extent: int, roi: RoiLike, axis: str) -> tuple[int, int]:
    if entry.step not in (None, 1):
        raise ValueError(f"roi {roi!r}: a step along {axis} is not supported")
    low = 0 if entry.start is None else int(entry.start)
    high = extent if entry.stop is None else int(entry.stop)
    if low < 0 or high > extent or low > extent:
        raise ValueError(
            f"roi {roi!r} is out of range: {axis} {low}:{high}, the target has {axis} 0:{extent}"
        )
    if low >= high:
        raise ValueError(f"roi {roi!r} is empty: {axis} {low}:{high} holds no voxel")
    return low, high
