"""Spatial dropout: whole feature maps zeroed (eq. 2 of Talks & Kreshuk, arXiv 2503.00450).

Dropout masks of tiles, laid out as a network's samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cte_dask.perturb import philox
from cte_dask.perturb.draw import Draw
from cte_dask.tiles import Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["channel_mask", "tile_masks"]


def channel_mask(
    channels: int, rate: float, *, mode: str | None = None, key: tuple[int, int]
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


def tile_masks(
    draw: Draw,
    tiles: Sequence[Tile],
    *,
    seed: int,
    channels: Sequence[int],
    planes: int,
    dims: int,
    like: Tensor,
) -> list[Tensor]:
    """Draw the multipliers of feature maps.

    Parameters
    ----------
    draw
        The perturbed run.
    tiles
        T tiles; each has one draw, the same for all its planes.
    seed
        Seed of the experiment.
    channels
        Feature maps C of each perturbed layer.
    planes
        Samples a tile.
    dims
        Spatial axes of a sample, 2 or 3.
    like
        Gives device and dtype.

    Returns
    -------
    list of Tensor
        One a layer, (T * planes, C, 1, 1[, 1]).
    """
    kind, draw_mask = draw.perturbation, draw.perturbation.load()
    masks = []
    for ordinal, count in enumerate(channels):
        drawn = np.stack(
            [
                draw_mask(count, kind.strength, mode=kind.mode, key=draw.key(seed, tile, ordinal))
                for tile in tiles
            ]
        )
        mask = torch.from_numpy(np.repeat(drawn, planes, axis=0)).to(like.device, like.dtype)
        masks.append(mask.reshape(*mask.shape, *(1,) * dims))
    return masks
