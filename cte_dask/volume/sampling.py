"""Draws a seeded sample of a target: whole read units, drawn by index without listing them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, VolumeReadError
from cte_dask.tiles import Shape
from cte_dask.volume.box import Box, triple

if TYPE_CHECKING:
    from cte_dask.volume.volume import Volume

__all__ = ["Sample", "draw_sample"]

_LEAST_DRAWS = 1024
_DRAWS_PER_UNIT = 8
_ALL_PERMUTED = 2**16
_CELL = 64
"""Voxels along y and x of the parts of a plane that are looked at for being of one value."""
_MOST_UNREADABLE = 8  # a store that is down must not be asked a thousand times


@dataclass(frozen=True)
class Sample:
    """Voxels of a target.

    Parameters
    ----------
    values
        The finite voxels within the mask (n,), in the stored element type.
    n_not_finite
        Voxels within the mask that are NaN or infinite.
    n_units, n_units_missing
        Units that were read, and units that a sparse array omits.
    n_units_unreadable
        Units that could not be read, such as corrupt chunks.
    n_constant
        Voxels within the mask, left out, of areas of one value: padding, or chunks that are not
        stored.
    digest
        SHA-256 of all voxels that were read, in the order of their places.
    """

    values: NDArray[Any]
    n_not_finite: int
    n_units: int
    n_units_missing: int
    n_units_unreadable: int = 0
    n_constant: int = 0
    digest: str = ""


@dataclass(frozen=True)
class _Units:
    """The boxes that a sample is drawn from: a grid over the array, cut to the region of interest.

    The grid starts at the array's corner, not the region's, so that no box straddles two chunks.
    """

    volume: Volume
    unit: Shape

    @property
    def first(self) -> Shape:
        return triple(a // u for a, u in zip(self.volume.roi.start, self.unit, strict=True))

    @property
    def counts(self) -> Shape:
        # ceil(stop / unit) - first
        spans = zip(self.volume.roi.stop, self.unit, self.first, strict=True)
        return triple(-(-b // u) - f for b, u, f in spans)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def box(self, index: int) -> Box:
        """Return a unit, relative to the region of interest."""
        # the number in C order -> its place (z, y, x) in the grid
        rest, x = divmod(index, self.counts[2])
        z, y = divmod(rest, self.counts[1])
        low = [(p + f) * u for p, f, u in zip((z, y, x), self.first, self.unit, strict=True)]
        roi = self.volume.roi
        start = triple(max(v, a) - a for v, a in zip(low, roi.start, strict=True))
        ends = zip(low, self.unit, roi.stop, roi.start, strict=True)
        return Box(start, triple(min(v + u, b) - a for v, u, b, a in ends))


def draw_sample(volume: Volume, *, seed: int, max_voxels: int) -> Sample:
    """Read the whole region of interest if it is small, else units drawn at random from it.

    Leaves out and counts the units that cannot be read; raises where most cannot.

    Parameters
    ----------
    volume
        The target.
    seed
        Seed of the draw.
    max_voxels
        Size of the sample; a region of at most this many voxels is read whole.

    Raises
    ------
    VolumeError
        If none of the units drawn holds stored voxels within the mask.
    VolumeReadError
        If most of the units drawn cannot be read.
    """
    if math.prod(volume.shape) <= max_voxels:
        region = Box((0, 0, 0), volume.shape)
        try:
            voxels = _voxels(volume, region, volume.read_mask(region.start, region.stop))
        except VolumeReadError:
            # one corrupt chunk spoils the whole read: read unit by unit what can be read
            units = _Units(volume, volume.read_unit)
            return _draw(volume, units, seed=seed, n_units=len(units))
        return Sample(
            voxels.values,
            voxels.n_not_finite,
            1,
            0,
            n_constant=voxels.n_constant,
            digest=voxels.digest,
        )
    units = _Units(volume, _sample_unit(volume, max_voxels))
    return _draw(volume, units, seed=seed, n_units=max(1, max_voxels // math.prod(units.unit)))


def _draw(volume: Volume, units: _Units, *, seed: int, n_units: int) -> Sample:
    samples: list[NDArray[Any]] = []
    digest = hashlib.sha256()
    draws = missing = n_not_finite = n_constant = unreadable = 0
    # an array that is almost empty would be drawn from for ever: the number of draws is bounded
    for index in _without_replacement(len(units), seed):
        if len(samples) == n_units or draws == max(_LEAST_DRAWS, _DRAWS_PER_UNIT * n_units):
            break
        draws += 1
        box = units.box(index)
        try:
            mask = volume.read_mask(box.start, box.stop)
            if mask is not None and not mask.any():
                continue
            if _all_omitted(volume, box):
                missing += 1
                continue
            voxels = _voxels(volume, box, mask)
        except VolumeReadError:
            unreadable += 1
            if unreadable > _MOST_UNREADABLE + 2 * len(samples):
                raise
            continue
        samples.append(voxels.values)
        digest.update(voxels.digest.encode())
        n_not_finite += voxels.n_not_finite
        n_constant += voxels.n_constant
    if not samples:
        raise VolumeError(_why_nothing(volume, draws, missing, unreadable, len(units)))
    return Sample(
        np.concatenate(samples),
        n_not_finite,
        len(samples),
        missing,
        unreadable,
        n_constant,
        digest.hexdigest(),
    )


def _all_omitted(volume: Volume, box: Box) -> bool:
    stored = volume.storage_objects(box.start, box.stop)
    return volume.missing_chunks(box.start, box.stop) == stored


def _why_nothing(volume: Volume, draws: int, missing: int, unreadable: int, total: int) -> str:
    why = f"{missing} are omitted by the sparse array"
    if unreadable:
        why += f", {unreadable} cannot be read"
    if draws > missing + unreadable:
        why += f", {draws - missing - unreadable} lie outside the mask"
    return (
        f"target {volume.name}: no intensities found in {draws} of {total} chunks drawn: {why}; "
        "choose a --roi that holds data"
    )


@dataclass(frozen=True)
class _Voxels:
    """What is taken of a box: finite voxels that are no padding, and how many others there are."""

    values: NDArray[Any]
    n_not_finite: int
    n_constant: int
    digest: str


def _voxels(volume: Volume, box: Box, mask: NDArray[np.bool_] | None) -> _Voxels:
    data = volume.read(box.start, box.stop)
    chosen, constant = mask, _constant(data)
    number, digest = 0, hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()
    if constant is not None and not constant.all():  # where all is constant, that is what there is
        number = int(constant.sum() if mask is None else (constant & mask).sum())
        chosen = ~constant if mask is None else mask & ~constant
    values = data.reshape(-1) if chosen is None else data[chosen]
    if values.dtype.kind != "f":
        return _Voxels(values, 0, number, digest)
    finite = np.isfinite(values)
    not_finite = int(values.size - finite.sum())
    return _Voxels(values[finite] if not_finite else values, not_finite, number, digest)


def _constant(data: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which voxels lie in cells of one value, bool (z, y, x); None if there are none."""
    number = [n // _CELL for n in data.shape[1:]]  # the last one takes what is left over
    if 0 in number:
        return None
    edges = [np.arange(n) * _CELL for n in number]

    def along_cells(extreme: np.ufunc) -> NDArray[Any]:
        rows: NDArray[Any] = extreme.reduceat(data, edges[0], axis=1)
        return np.asarray(extreme.reduceat(rows, edges[1], axis=2))

    cells = along_cells(np.minimum) == along_cells(np.maximum)
    if not cells.any():
        return None
    # a cell's answer for each of its voxels
    extents = zip(data.shape[1:], number, strict=True)
    y, x = (np.minimum(np.arange(n) // _CELL, m - 1) for n, m in extents)
    return np.asarray(cells[:, y[:, None], x])


def _sample_unit(volume: Volume, max_voxels: int) -> Shape:
    """Return the shape of the boxes to draw: a shard or chunk, a piece of one, or several.

    Aims at a sample of 16 to 64 boxes: fewer say little about a large target, more only cost
    requests.
    """
    most, least = max(1, max_voxels // 16), max(1, max_voxels // 64)
    unit = list(volume.read_unit)
    # a shard that is too large gives way to one of its chunks, and that to halves of it
    if math.prod(unit) > most:
        chunk = zip(volume.chunks, volume.array_shape, strict=True)
        unit = [min(c, n) for c, n in chunk]
    while math.prod(unit) > most:
        axis = max(range(3), key=lambda a: unit[a])
        unit[axis] = -(-unit[axis] // 2)
    # chunks smaller than that are joined, along x first
    for axis in (2, 1, 0):
        room = min(least // math.prod(unit), -(-volume.array_shape[axis] // unit[axis]))
        unit[axis] *= max(1, room)
    return triple(unit)


def _without_replacement(count: int, seed: int) -> Iterator[int]:
    """Yield all of ``range(count)`` in random order, without ever listing a large one."""
    generator = np.random.Generator(np.random.Philox(seed))
    if count <= _ALL_PERMUTED:
        yield from generator.permutation(count).tolist()
        return
    # rejection: of so many indices few are drawn, so that a repetition is rare
    drawn_before: set[int] = set()
    while len(drawn_before) < count:
        index = int(generator.integers(count))
        if index not in drawn_before:
            drawn_before.add(index)
            yield index
