"""Measuring, from outside, how much context a network needs around a tile.

Only forward passes are used, so it works for anything that maps an array to an array.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cte_dask.errors import FOREIGN
from cte_dask.inference.probe import least_extents, run

__all__ = ["Halo", "Witness", "measure_halo", "still_gives"]

Forward = Callable[[Tensor], Tensor]
Shape = tuple[int, int, int]

_LIMITS = {2: 256, 3: 64}
_SHUFFLED = 2
"""Which of the outsides has the statistics of the inside."""


@dataclass(frozen=True, slots=True)
class Witness:
    """What a network made of one image of noise, by which it is known again.

    Parameters
    ----------
    shape
        Of the image, (1, C, [z,] y, x).
    digest
        SHA-256 of the prediction.
    """

    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Halo:
    """The context a network needs.

    Parameters
    ----------
    zyx
        Voxels per side along z, y and x; z is 0 for a 2D network.
    note
        Why the numbers are not the whole truth, empty when they are.
    witnesses
        Of the largest frame along each axis.
    """

    zyx: Shape
    note: str = ""
    witnesses: tuple[Witness, ...] = ()


def measure_halo(
    forward: Forward,
    *,
    dims: int,
    multiple: int | Sequence[int],
    in_channels: int = 1,
    tolerance: float = 1e-4,
    limit: int | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
    extent: Sequence[int | None] | None = None,
) -> Halo:
    """Measure how far inside a core the predictions depend on what lies outside of it.

    Along each axis the predictions of inputs that are equal in a central core and differ outside
    are compared. The halo is the depth, from the core's border, down to which they differ::

        outside |           core            | outside
        ???????? a a a a a a a a a a a a a a ????????
                 x x x . . . . . . . . x x x            x: differs by more than the tolerance
                 <-3->                 <-3->            halo 3

    The core's border lies on a multiple of the network's pooling, as it will in use. The frame is
    doubled until the middle of the core is untouched or the limit is reached.

    Parameters
    ----------
    forward
        Maps (1, C, [z,] y, x) to (1, C_out, [z,] y, x).
    dims
        Number of spatial axes, 2 or 3.
    multiple
        What input extents must be a multiple of: one number, or one for each spatial axis.
    in_channels
        Channels C.
    tolerance
        Largest change of a prediction that does not count; 0 measures the receptive field as far
        as the floating type can see it.
    limit
        Largest halo searched for, in voxels; 256 in 2D and 64 in 3D when left out.
    activation
        Applied to the outputs before they are compared, as ``torch.sigmoid``.
    extent
        The only extents ([z,] y, x) that the network takes; None where it takes any. Halos up to
        0.28 of them can be measured; where the network sees more, they are a quarter at most.

    Returns
    -------
    Halo
        With a note when predictions still change in the middle of the largest core: the network
        sees its whole input (an instance or group normalisation). The halo is then the depth below
        which a shuffled outside changes no more than in the middle.

    Raises
    ------
    ValueError
        If the network does not accept the frames.
    """
    strides = tuple(multiple) if isinstance(multiple, Sequence) else (multiple,) * dims
    fixed = tuple(extent or (None,) * dims)
    limit = limit or _LIMITS[dims]
    search = _Search(forward, in_channels, strides, tolerance, limit, activation, fixed)
    reaches = [search.along(axis) for axis in range(dims)]
    z, y, x = (0,) * (3 - dims) + tuple(depth for depth, _ in reaches)
    floor = max(change for _, change in reaches)
    note = f"sees its whole input: predictions change by up to {floor:.2g} with the extent"
    if any(fixed):
        note = f"sees most of its window: predictions change by up to {floor:.2g} with its place"
    witnesses = tuple(search.witnesses[axis] for axis in range(dims))
    return Halo((z, y, x), note if floor > tolerance else "", witnesses)


def still_gives(
    witnesses: Sequence[Witness],
    forward: Forward,
    *,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> bool:
    """Tell whether a network makes the same of noise as when its halo was measured, to the bit.

    Parameters
    ----------
    witnesses
        Of that halo.
    forward, activation
        As `measure_halo` takes them.
    """
    try:
        return bool(witnesses) and all(
            _digest(_predicted(forward, _noise(w.shape), activation)) == w.digest for w in witnesses
        )
    except FOREIGN:  # of a shape that it does not take, as a damaged file may tell
        return False


@dataclass(frozen=True, slots=True)
class _Search:
    forward: Forward
    in_channels: int
    strides: tuple[int, ...]
    tolerance: float
    limit: int
    activation: Callable[[Tensor], Tensor] | None
    extent: tuple[int | None, ...]
    witnesses: dict[int, Witness] = field(default_factory=dict)

    def along(self, axis: int) -> tuple[int, float]:
        """Return the halo along one axis, and the change in the middle of the last core."""
        # The middle half of the core must stay untouched, so it is twice the longest halo deep.
        limit = _up(2 * self.limit, self.strides[axis])
        half = min(_up(16, self.strides[axis]), limit)
        if (only := self.extent[axis]) is not None:
            limit = half = max(1, 3 * only // 8)
        while True:
            # of a single extent most of the core is needed to measure in
            deep = half // 2 if only is None else 3 * half // 4
            changes, middle = [], 0.0
            for change in self._changes(axis, half):
                changes.append(change)
                middle = max(middle, float(change[deep:].max()))
                if middle > self.tolerance and half < limit:
                    break  # a larger core is needed whatever the other outsides show
            if middle <= self.tolerance:
                return max(_depth(change, self.tolerance) for change in changes), middle
            if half >= limit:
                # Only the shuffled outside leaves the statistics of the whole input as they were.
                shuffled = changes[_SHUFFLED]
                floor = max(self.tolerance, 2 * float(shuffled[deep:].max()))
                most = self.limit if only is None else min(self.limit, only // 4)
                return min(_depth(shuffled, floor), most), middle
            half = min(2 * half, limit)

    def _changes(self, axis: int, half: int) -> Iterator[Tensor]:
        """Yield, for each pair of inputs, the largest change at depths 0 … half - 1.

        That which mostly reaches farthest comes first.
        """
        least = least_extents(len(self.strides))
        sizes = zip(least, self.strides, self.extent, strict=True)
        shape = [only or _up(n, stride) for n, stride, only in sizes]
        if (only := self.extent[axis]) is not None:
            margin = (only - 2 * half) // 2
        else:
            margin = _up(max(4, half // 4), self.strides[axis])
            shape[axis] = 2 * half + 2 * margin
        noise = _noise((1, self.in_channels, *shape))
        dark = torch.zeros_like(noise)
        # Maximum pooling hides a small change beside a larger value: in a flat core there is none.
        pairs = ((noise, (4 + noise, dark, _shuffled(noise, axis))), (dark, (1 + dark,)))
        for inside, outsides in pairs:
            reference = _predicted(self.forward, inside, self.activation)
            if inside is noise:
                self.witnesses[axis] = Witness(tuple(noise.shape), _digest(reference))
            for outside in outsides:
                x = outside.clone()
                x.narrow(axis + 2, margin, 2 * half).copy_(
                    inside.narrow(axis + 2, margin, 2 * half)
                )
                predicted = _predicted(self.forward, x, self.activation)
                yield self._depths(predicted - reference, axis, margin)

    def _depths(self, difference: Tensor, axis: int, margin: int) -> Tensor:
        other = [d for d in range(difference.ndim) if d != axis + 2]
        line = difference.abs().amax(dim=other).double().cpu()
        core = line[margin : len(line) - margin]
        return torch.maximum(core, core.flip(0))[: len(core) // 2]


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def _digest(prediction: Tensor) -> str:
    return hashlib.sha256(prediction.float().contiguous().cpu().numpy().tobytes()).hexdigest()


def _predicted(
    forward: Forward, x: Tensor, activation: Callable[[Tensor], Tensor] | None
) -> Tensor:
    output = run(forward, x)
    if output.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"an input of {tuple(x.shape[2:])} gave an output of {tuple(output.shape[2:])}: "
            "the extents must be equal"
        )
    return output if activation is None else activation(output)


def _depth(change: Tensor, floor: float) -> int:
    """Return the number of voxels down to the deepest change above the floor."""
    above = torch.nonzero(change > floor)
    return 1 + int(above.max()) if len(above) else 0


def _shuffled(inside: Tensor, axis: int) -> Tensor:
    """Return the same values at other places of the planes across `axis`: half a turn of each."""
    return inside.flip([d for d in range(2, inside.ndim) if d != axis + 2])


def _up(extent: int, multiple: int) -> int:
    return math.ceil(extent / multiple) * multiple
