"""What a user should know of a model's score beside the number, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ONE_REGION", "noted", "partly"]

ONE_REGION = "no interval: one region alone has a score"


def noted(*notes: str) -> str:
    """Return notes as one, empty ones left out."""
    return "; ".join(filter(None, notes))


def partly(name: str, data: xr.Dataset) -> str:
    """Tell of a model that was not scored on every block that others were."""
    requested = (data.sel(model=name).status != STATUS["absent"]).any("perturbation").to_numpy()
    if requested.all():
        return ""
    blocks = data.block.to_numpy()
    number, total = len(np.unique(blocks[requested])), len(np.unique(blocks))
    return f"beaten: scored on {number} of {total} blocks, its CTE is of those"
