"""Spatial dropout: whole feature maps zeroed (eq. 2 of Talks & Kreshuk, arXiv 2503.00450)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cte_dask.arrays import Array
from cte_dask.perturb import philox
from cte_dask.perturb.kinds import FeaturePerturbation
from cte_dask.perturb.philox import Key

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Dropout", "channel_mask"]


class Dropout(FeaturePerturbation):
    """Feature maps dropped at a rate p, the others scaled up by 1/(1 - p)."""

    accepted = "a rate 0 <= p < 1"
    modes = ("bernoulli", "fixed")
    meaning = "rate of feature maps dropped at the bottleneck"
    strengths = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    note = "grey boxes only"

    def accepts(self, strength: float) -> bool:
        """Whether it is a rate, not dropping all."""
        return 0 <= strength < 1

    def multipliers(self, channels: int, strength: float, *, mode: str | None, key: Key) -> Array:
        """Draw a mask; see `channel_mask`."""
        return channel_mask(channels, strength, mode=mode, key=key)


def channel_mask(
    channels: int, rate: float, *, mode: str | None = None, key: Key
) -> NDArray[np.float32]:
    """Draw the spatial-dropout mask of one tile and layer.

    Parameters
    ----------
    channels
        Number of feature maps C.
    rate
        Dropout rate p_d in [0, 1).
    mode
        ``"bernoulli"``: each map is dropped with probability p_d. ``"fixed"``: exactly
        round(p_d·C) maps, at least one.
    key
        Philox key of the tile and layer.

    Returns
    -------
    ndarray of float32, shape (C,)
        0 for dropped maps, 1/(1 - p_d) for kept ones (eq. 2).

    Raises
    ------
    ValueError
        If `mode` is unknown.
    """
    draws = philox.uniform(key, channels)
    if mode in (None, "bernoulli"):
        dropped = draws < rate
    elif mode == "fixed":
        count = max(1, round(rate * channels))
        dropped = np.zeros(channels, bool)
        dropped[np.argsort(draws, kind="stable")[:count]] = True
    else:
        raise ValueError(f"dropout mode {mode!r} is not one of bernoulli, fixed")
    return np.where(dropped, 0.0, 1.0 / (1.0 - rate)).astype(np.float32)
