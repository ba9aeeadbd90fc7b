"""The voxels of a block: read once, with the widest context that any model wants.

`windows` reads a block slab by slab, each chunk once, the next slab while one is scored.

A terabyte's block is half a gigabyte. It is taken in slabs along z (along y if it is one row of
tiles deep), cut where chunks end; what two neighbours both need stays in memory. So a worker's
memory depends on neither block nor target, and all reads but a block's first cost no time where
computing takes longer::

      tiles     | r0 | r1 | r2 | r3 |
      1st read  ~~~~~~~~~~~~~~|          the halo before, r0, r1, up to where a chunk ends
      2nd read           kept |~~~~~~~~~
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.inference.device import on_device, uploads_to
from cte_dask.tiles import Block, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.perturb import Perturbation
    from cte_dask.scoring.experiment import Candidate, Experiment
    from cte_dask.volume import Volume

__all__ = [
    "MOST_BYTES",
    "Margins",
    "Slab",
    "Window",
    "largest_slab",
    "margins_of",
    "read_box",
    "read_window",
    "shifted",
    "slabs_of",
    "windows",
]


@dataclass(frozen=True, slots=True)
class Window:
    """The voxels of a block with the widest halo among the models, on the device.

    Parameters
    ----------
    voxels
        (c, z, y, x), NumPy or CuPy.
    start
        First voxel (z, y, x).
    channels
        Which channels of the target these are, by index.
    channel
        The one that models see by default.
    """

    voxels: Any
    start: Shape
    channels: tuple[int, ...] = (0,)
    channel: int = 0

    @classmethod
    def on(cls, device: str, voxels: NDArray[Any], start: Shape, volume: Volume) -> Window:
        """Return a window of some voxels of a target on ``"cpu"`` or ``"cuda"``."""
        return cls.of(on_device(device, voxels), start, volume)

    @classmethod
    def of(cls, voxels: Any, start: Shape, volume: Volume) -> Window:
        """Return a window of some voxels of a target, where they are."""
        channel = volume.channel or 0
        return cls(voxels, start, volume.channels or (channel,), channel)

    def frame(self, start: Shape, shape: Shape, channels: Sequence[int] = ()) -> Any:
        """Return the box at `start` (c, z, y, x), a view where it can be.

        Parameters
        ----------
        start, shape
            The box, in voxels (z, y, x).
        channels
            Channels of the target, in the order wanted; empty for the one seen by default.
        """
        low = shifted(start, self.start, -1)
        box = tuple(slice(a, a + s) for a, s in zip(low, shape, strict=True))
        places = [self.channels.index(c) for c in channels or (self.channel,)]
        if len(places) == 1:
            return self.voxels[(slice(places[0], places[0] + 1), *box)]
        return self.voxels[(slice(None), *box)][places]


Margins = tuple[Shape, Shape]
"""Context in voxels that a read adds before the start of its tiles and behind their stop."""


def margins_of(
    tile: Shape, candidates: Sequence[Candidate], perturbations: Iterable[Perturbation]
) -> Margins:
    """Return the context that a block's read adds before its start and behind its stop.

    Parameters
    ----------
    tile
        Extent of a whole tile (z, y, x).
    candidates
        The models that read it; the widest context counts.
    perturbations
        Those that will be run. Some read more than the unperturbed pass.
    """
    passes = [None, *perturbations]
    boxes = [c.view(tile, p).box for c in candidates for p in passes]
    before = [max(b[i] for b, _ in boxes) for i in range(3)]
    after = [max(s[i] - b[i] - tile[i] for b, s in boxes) for i in range(3)]
    return (before[0], before[1], before[2]), (after[0], after[1], after[2])


def read_window(
    experiment: Experiment, block: Block, perturbations: Iterable[Perturbation] | None = None
) -> Window:
    """Read a block with its margins, once for all models.

    Parameters
    ----------
    experiment, block
        The run and one of its blocks.
    perturbations
        Those that will be run; by default the experiment's own.

    Raises
    ------
    OSError
        If the storage fails.
    """
    tile = experiment.grid.tile
    run = experiment.perturbations if perturbations is None else perturbations
    before, after = margins_of(tile, experiment.candidates, run)
    start = shifted(block.start, before, -1)
    stop = shifted(shifted(block.tiles[-1].start, tile, 1), after, 1)
    volume = experiment.volume
    return Window.on(experiment.device, read_box(volume, start, stop), start, volume)


def read_box(volume: Volume, start: Shape, stop: Shape) -> NDArray[Any]:
    """Read a box of the target in all channels that its models see, (c, z, y, x).

    Raises
    ------
    OSError
        If the storage fails, however often it was asked (`cte_dask.storage.retries`).
    """
    return volume.read_channels(start, stop)


def shifted(a: Shape, b: Shape, sign: int) -> Shape:
    """Return a + sign·b."""
    return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]


MOST_BYTES = 2**26
"""A slab holds at most so many bytes, where its chunks allow it."""
LEAST_BYTES = 2**22
LEAST_SLABS = 2
"""Slabs, at least, of a block larger than `LEAST_BYTES`: all reads but the first are hidden."""


@dataclass(frozen=True, slots=True)
class Slab:
    """A part of a block that is read and scored at once.

    Parameters
    ----------
    tiles
        Places of its tiles in the block.
    axis
        Along which the block is cut.
    first
        First voxel along the axis that its tiles need.
    low, high
        What is read for it along the axis; what lies between `first` and `low` is there already.
    """

    tiles: slice
    axis: int
    first: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class _Line:
    """The axis along which a block is cut: extents in voxels of the region of interest."""

    axis: int
    starts: tuple[int, ...]  # of the rows of tiles
    before: int
    behind: int  # from a row's start to the end of what it needs
    low: int
    high: int
    bytes_each: int  # of one plane across

    def need(self, row: int) -> int:
        return self.starts[row] + self.behind


def slabs_of(volume: Volume, block: Block, tile: Shape, margins: Margins) -> list[Slab]:
    """Cut a block into slabs; each of its chunks lies in one slab's read.

    Parameters
    ----------
    volume, block
        The target and one of its blocks.
    tile
        Extent of a whole tile (z, y, x).
    margins
        From `margins_of`.
    """
    line = _line(volume, block, tile, margins)
    ends = _ends(volume, line)
    total = (line.high - line.low) * line.bytes_each
    most = max(LEAST_BYTES, min(MOST_BYTES, total // LEAST_SLABS))
    across = len(block.tiles) // len(line.starts)
    slabs, first, low, rows = [], 0, line.low, len(line.starts)
    while first < rows:
        start = line.starts[first] - line.before
        last, high = first, ends[first]
        while last + 1 < rows and (ends[last + 1] - start) * line.bytes_each <= most:
            last, high = last + 1, ends[last + 1]
        while last + 1 < rows and line.need(last + 1) <= high:
            last += 1  # all that it needs is read
        tiles = slice(first * across, (last + 1) * across)
        slabs.append(Slab(tiles, line.axis, start, low, high))
        first, low = last + 1, high
    return slabs


def largest_slab(volume: Volume, block: Block, tile: Shape, margins: Margins) -> int:
    """Return the bytes of the largest slab of a block, with what is kept of the one before.

    Parameters
    ----------
    volume, block
        The target and one of its blocks.
    tile
        Extent of a whole tile (z, y, x).
    margins
        From `margins_of`.
    """
    line = _line(volume, block, tile, margins)
    return max(s.high - s.first for s in slabs_of(volume, block, tile, margins)) * line.bytes_each


def _line(volume: Volume, block: Block, tile: Shape, margins: Margins) -> _Line:
    starts = tuple(sorted({t.start[0] for t in block.tiles}))
    axis = 0 if len(starts) > 1 else 1
    if axis:
        starts = tuple(sorted({t.start[1] for t in block.tiles}))
    before, after = margins
    ends = shifted(shifted(block.tiles[-1].start, tile, 1), after, 1)
    extent = [e - s + b for e, s, b in zip(ends, block.start, before, strict=True)]
    across = math.prod(extent) // extent[axis]
    behind = tile[axis] + after[axis]
    return _Line(
        axis=axis,
        starts=starts,
        before=before[axis],
        behind=behind,
        low=starts[0] - before[axis],
        high=starts[-1] + behind,
        bytes_each=across * volume.dtype.itemsize * max(1, len(volume.channels)),
    )


def _ends(volume: Volume, line: _Line) -> list[int]:
    """Return how far to read for each row: to where the chunk ends in which its need ends."""
    axis = line.axis
    extent, origin = volume.array_shape[axis], volume.origin[axis]
    unit = volume.chunks[axis]
    shard = volume.read_unit[axis]
    if shard * line.bytes_each <= MOST_BYTES:
        unit = shard  # a shard is best read in one go
    # beyond the array's edges voxels are reflected: what they are read from is read with them
    least = max(0, -(line.low + origin)) + 1
    most = min(extent - 1, 2 * extent - 1 - (line.high + origin))
    ends = []
    for row in range(len(line.starts)):
        # the first end of a chunk at or behind the need; chunks count from the array's origin
        end = -(-(line.need(row) + origin) // unit) * unit
        ends.append(end - origin if least <= end <= most else line.high)
    return [min(end, line.high) for end in ends]


def windows(
    volume: Volume, block: Block, tile: Shape, margins: Margins, *, device: str
) -> Iterator[tuple[slice, Window]]:
    """Yield the places of a slab's tiles in the block, and its voxels; the next is read meanwhile.

    A window on a GPU is lost when the next one is asked for: its memory is that of the one after.

    Parameters
    ----------
    volume, block
        The target and one of its blocks.
    tile
        Extent of a whole tile (z, y, x).
    margins
        From `margins_of`.
    device
        Where the voxels go, ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    OSError
        If the storage fails.
    """
    slabs, uploads = slabs_of(volume, block, tile, margins), uploads_to(device)
    before, after = margins
    start = list(shifted(block.start, before, -1))
    stop = list(shifted(shifted(block.tiles[-1].start, tile, 1), after, 1))

    def fetched(slab: Slab, previous: NDArray[Any] | None) -> tuple[NDArray[Any], Any]:
        voxels = _read(volume, slab, start, stop, previous)
        return voxels, uploads.send(voxels)

    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        # nothing can be done while the first one is read: a thread for it alone is not worth it
        read: Callable[[], tuple[NDArray[Any], Any]] = partial(fetched, slabs[0], None)
        for slab, following in zip(slabs, [*slabs[1:], None], strict=True):
            voxels, sent = read()
            if following is not None:
                read = reader.submit(fetched, following, voxels).result
            corner = list(start)
            corner[slab.axis] = slab.first
            with uploads.received(sent) as here:
                yield slab.tiles, Window.of(here, _triple(corner), volume)
            del voxels, sent, here  # before the next one is waited for


def _read(
    volume: Volume,
    slab: Slab,
    start: list[int],
    stop: list[int],
    previous: NDArray[Any] | None,
) -> NDArray[Any]:
    """Read a slab and put it behind what it needs of the one before."""
    low, high = list(start), list(stop)
    low[slab.axis], high[slab.axis] = slab.low, slab.high
    return _joined(previous, read_box(volume, _triple(low), _triple(high)), slab)


def _joined(previous: NDArray[Any] | None, new: NDArray[Any], slab: Slab) -> NDArray[Any]:
    """Put what is read behind what is kept of the slab before."""
    shared = slab.low - slab.first
    lead = (slice(None),) * (slab.axis + 1)  # channels stand before z
    # nothing to share; where the read begins before what the tiles need, its front goes
    if previous is None or shared <= 0:
        return new[(*lead, slice(-shared, None))] if shared < 0 else new
    return np.concatenate([previous[(*lead, slice(-shared, None))], new], axis=slab.axis + 1)


def _triple(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x
