"""Dropout masks of tiles, laid out as a network's samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cte_dask.perturb.draw import Draw
from cte_dask.tiles import Tile

__all__ = ["tile_masks"]


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
