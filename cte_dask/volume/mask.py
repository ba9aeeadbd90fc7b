"""Masks: which voxels of a target count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cte_dask.tiles import Shape
from cte_dask.volume.box import Box, triple
from cte_dask.volume.view import ZyxView, gather

__all__ = ["Mask", "mask_factors"]


@dataclass(frozen=True)
class Mask:
    """A mask of a target; each of its voxels stands for a box of target voxels.

    Parameters
    ----------
    view
        The stored mask; voxels that are not zero count.
    factors
        Voxels of the target per voxel of the mask (z, y, x).
    """

    view: ZyxView
    factors: Shape

    @property
    def name(self) -> str:
        """URL and path of the stored mask."""
        return self.view.name

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Return the mask of a box of the target; a smaller mask repeats its voxels.

        Parameters
        ----------
        box
            Voxels of the target's array.

        Returns
        -------
        ndarray of bool
            The mask (z, y, x) in the shape of the box.
        """
        # a mask that was rounded down ends early: its last voxel stands for the rest too
        indices = [
            np.minimum(np.arange(low, high) // factor, extent - 1)
            for low, high, factor, extent in zip(
                box.start, box.stop, self.factors, self.view.shape, strict=True
            )
        ]
        stored: NDArray[np.bool_] = gather(self.view, indices)[0].astype(bool)
        return stored


def mask_factors(mask: Shape, target: Shape) -> Shape | None:
    """Return how many target voxels a mask voxel stands for, None if the mask does not fit.

    Parameters
    ----------
    mask, target
        Extents in voxels (z, y, x). The mask may be smaller by a whole factor along any axis,
        rounded either way; one plane stands for all.

    Examples
    --------
    >>> mask_factors((1, 50, 51), (8, 100, 101)), mask_factors((8, 60, 60), (8, 100, 100))
    ((8, 2, 2), None)
    """
    factors = [_factor(m, n) for m, n in zip(mask, target, strict=True)]
    return None if None in factors else triple(factors)


def _factor(mask: int, target: int) -> int | None:
    if not 1 <= mask <= target:
        return None
    # target / f, rounded down or up, gives the mask's extent; f is one of two neighbours
    candidates = {target // mask, -(-target // mask)}
    return next((f for f in sorted(candidates) if mask in (target // f, -(-target // f))), None)
