"""Measuring, from outside, what a network needs around a tile: context, and divisible extents.

Only forward passes are used, so it works for anything that maps an array to an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cte_dask.errors import FOREIGN, reason
from cte_dask.models.one_image import OutputError

if TYPE_CHECKING:
    from cte_dask.models.network import Network

__all__ = ["Halo", "check_fraction", "measure_halo", "probe_extent", "probe_multiple"]

Forward = Callable[[Tensor], Tensor]
Shape = tuple[int, int, int]

_LARGEST_MULTIPLE = 64
_EXTENTS = {2: (*range(16, 1025, 16), 518), 3: (*range(16, 257, 16),)}
"""At which networks of one extent are trained."""
_LIMITS = {2: 256, 3: 64}
_SHUFFLED = 2
"""Which of the outsides has the statistics of the inside."""


@dataclass(frozen=True, slots=True)
class Halo:
    """The context a network needs.

    Parameters
    ----------
    zyx
        Voxels per side along z, y and x; z is 0 for a 2D network.
    note
        Why the numbers are not the whole truth, empty when they are.
    """

    zyx: Shape
    note: str = ""


def probe_multiple(forward: Forward, *, dims: int, in_channels: int = 1) -> int:
    """Find what input extents must be a multiple of.

    Parameters
    ----------
    forward
        Maps (1, C, [z,] y, x) to (1, C_out, [z,] y, x).
    dims
        Number of spatial axes, 2 or 3.
    in_channels
        Channels C.

    Returns
    -------
    int
        The smallest power of two, at most 64, an odd multiple of which is accepted along every
        axis and gives an output of the same extent; and an even one, too.

    Raises
    ------
    OutputError
        If it cannot be told which of the network's outputs is meant.
    ValueError
        If there is none, with the last reason.
    """
    why: str | OutputError = ""
    multiple = 1
    while multiple <= _LARGEST_MULTIPLE:
        extent = tuple(_odd_multiple(multiple, least) for least in _least(dims))
        try:
            output = _run(forward, torch.zeros(1, in_channels, *extent))
        except OutputError as error:  # of another extent one of its outputs may fit
            why = error
        # Networks complain about extents in every type there is.
        except FOREIGN as error:
            why = reason(error)
        else:
            if tuple(output.shape[2:]) != extent:
                why = f"an input of {extent} gave an output of {tuple(output.shape[2:])}"
            elif _takes_others(forward, extent, multiple, in_channels):
                return multiple
            else:
                why = f"an input of {extent} is taken, and no other"
        multiple *= 2
    if isinstance(why, OutputError):
        raise why
    why = " ".join(why.split())
    raise ValueError(f"no input extent up to {extent} gives an output of the same extent: {why}")


def _takes_others(
    forward: Forward, extent: tuple[int, ...], multiple: int, in_channels: int
) -> bool:
    """Tell whether a multiple less, or one more, in the plane gives an output of that extent."""
    for step in (-multiple, multiple):
        other = (*extent[:-2], *(n + step for n in extent[-2:]))
        if _gives_same(forward, other, in_channels):
            return True
    return False


def _gives_same(forward: Forward, extent: tuple[int, ...], in_channels: int) -> bool:
    try:
        output = _run(forward, torch.zeros(1, in_channels, *extent))
    except FOREIGN:
        return False
    return tuple(output.shape[2:]) == extent


def probe_extent(forward: Forward, *, dims: int, in_channels: int = 1) -> int | None:
    """Find the extent, alike along all axes, of a network that takes no other.

    Parameters
    ----------
    forward, dims, in_channels
        As `probe_multiple` takes them.

    Returns
    -------
    int or None
        The first of the usual ones that is taken, if the output has it too; else None.
    """
    for extent in _EXTENTS[dims]:
        shape = (extent,) * dims
        try:
            with torch.no_grad():
                output = forward(torch.zeros(1, in_channels, *shape))
        except OutputError:
            return None
        except FOREIGN:
            continue
        return extent if tuple(output.shape[2:]) == shape else None
    return None


def check_fraction(network: Network, x: Tensor) -> None:
    """Check that an output at a fraction of the resolution is one whatever the extent.

    A network without padding gives less than it takes, and at one extent that may be half of it.

    Parameters
    ----------
    network
        A network that has run on `x`.
    x
        A batch, (N, C, [z,] y, x).

    Raises
    ------
    ValueError
        If another extent gives another fraction.
    """
    if network.image is None or max(network.image.factor, default=1) == 1:
        return
    longer = x.repeat(1, 1, 2, *(1,) * (x.ndim - 3))
    try:
        output = _run(network.forward, longer)
    except FOREIGN:  # it takes one extent alone
        return
    if output.shape[2:] != longer.shape[2:]:
        raise ValueError(
            f"an input of {tuple(longer.shape[2:])} gave an output of {tuple(output.shape[2:])}: "
            "neither the same extent nor one fraction of it, whatever the extent"
        )


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
    return Halo((z, y, x), note if floor > tolerance else "")


@dataclass(frozen=True, slots=True)
class _Search:
    forward: Forward
    in_channels: int
    strides: tuple[int, ...]
    tolerance: float
    limit: int
    activation: Callable[[Tensor], Tensor] | None
    extent: tuple[int | None, ...]

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
        least = _least(len(self.strides))
        sizes = zip(least, self.strides, self.extent, strict=True)
        shape = [only or _up(n, stride) for n, stride, only in sizes]
        if (only := self.extent[axis]) is not None:
            margin = (only - 2 * half) // 2
        else:
            margin = _up(max(4, half // 4), self.strides[axis])
            shape[axis] = 2 * half + 2 * margin
        noise = torch.rand(1, self.in_channels, *shape, generator=torch.Generator().manual_seed(0))
        dark = torch.zeros_like(noise)
        # Maximum pooling hides a small change beside a larger value: in a flat core there is none.
        pairs = ((noise, (4 + noise, dark, _shuffled(noise, axis))), (dark, (1 + dark,)))
        for inside, outsides in pairs:
            reference = self._predict(inside)
            for outside in outsides:
                x = outside.clone()
                x.narrow(axis + 2, margin, 2 * half).copy_(
                    inside.narrow(axis + 2, margin, 2 * half)
                )
                yield self._depths(self._predict(x) - reference, axis, margin)

    def _depths(self, difference: Tensor, axis: int, margin: int) -> Tensor:
        other = [d for d in range(difference.ndim) if d != axis + 2]
        line = difference.abs().amax(dim=other).double().cpu()
        core = line[margin : len(line) - margin]
        return torch.maximum(core, core.flip(0))[: len(core) // 2]

    def _predict(self, x: Tensor) -> Tensor:
        output = _run(self.forward, x)
        if output.shape[2:] != x.shape[2:]:
            raise ValueError(
                f"an input of {tuple(x.shape[2:])} gave an output of {tuple(output.shape[2:])}: "
                "the extents must be equal"
            )
        return output if self.activation is None else self.activation(output)


def _depth(change: Tensor, floor: float) -> int:
    """Return the number of voxels down to the deepest change above the floor."""
    above = torch.nonzero(change > floor)
    return 1 + int(above.max()) if len(above) else 0


def _shuffled(inside: Tensor, axis: int) -> Tensor:
    """Return the same values at other places of the planes across `axis`: half a turn of each."""
    return inside.flip([d for d in range(2, inside.ndim) if d != axis + 2])


def _run(forward: Forward, x: Tensor) -> Tensor:
    with torch.no_grad():
        output = forward(x)
    if not isinstance(output, Tensor) or output.ndim != x.ndim:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"an input of {tuple(x.shape)} gave {what}, not an image of the same axes")
    return output


def _least(dims: int) -> tuple[int, ...]:
    """Smallest extents worth probing: large enough for deep networks, small enough to be quick."""
    return (32, 32) if dims == 2 else (8, 16, 16)


def _odd_multiple(multiple: int, least: int) -> int:
    count = max(1 if least < 16 else 3, math.ceil(least / multiple))
    return multiple * (count + (count % 2 == 0))


def _up(extent: int, multiple: int) -> int:
    return math.ceil(extent / multiple) * multiple
