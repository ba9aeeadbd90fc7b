"""Finding, from outside, what input extents a network takes.

Only forward passes are used, so it works for anything that maps an array to an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cte_dask.errors import FOREIGN, reason
from cte_dask.models.one_image import OutputError

if TYPE_CHECKING:
    from cte_dask.models.network import Network

__all__ = [
    "check_fraction",
    "least_extents",
    "probe_extent",
    "probe_multiple",
    "run",
]

Forward = Callable[[Tensor], Tensor]

_LARGEST_MULTIPLE = 64
_EXTENTS = {2: (*range(16, 1025, 16), 518), 3: (*range(16, 257, 16),)}
"""At which networks of one extent are trained."""


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
        extent = tuple(_odd_multiple(multiple, least) for least in least_extents(dims))
        try:
            output = run(forward, torch.zeros(1, in_channels, *extent))
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
        output = run(forward, torch.zeros(1, in_channels, *extent))
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
        output = run(network.forward, longer)
    except FOREIGN:  # it takes one extent alone
        return
    if output.shape[2:] != longer.shape[2:]:
        raise ValueError(
            f"an input of {tuple(longer.shape[2:])} gave an output of {tuple(output.shape[2:])}: "
            "neither the same extent nor one fraction of it, whatever the extent"
        )


def run(forward: Forward, x: Tensor) -> Tensor:
    """Return what a network makes of an image, once that is known to be one."""
    with torch.no_grad():
        output = forward(x)
    if not isinstance(output, Tensor) or output.ndim != x.ndim:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"an input of {tuple(x.shape)} gave {what}, not an image of the same axes")
    return output


def least_extents(dims: int) -> tuple[int, ...]:
    """Return the smallest extents worth probing: large enough for deep networks, and quick."""
    return (32, 32) if dims == 2 else (8, 16, 16)


def _odd_multiple(multiple: int, least: int) -> int:
    count = max(1 if least < 16 else 3, math.ceil(least / multiple))
    return multiple * (count + (count % 2 == 0))
