"""Every score of the tiles as one table, and which models support it: what is combined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cte_dask.consistency import applies
from cte_dask.tile_scoring import STATUS

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["evidence"]


def evidence(
    data: xr.Dataset,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.bool_]]]:
    """Return the tile values of every score, and which models support it.

    Parameters
    ----------
    data
        Tile scores, computed.

    Returns
    -------
    tuple of dict
        Score (``metric@perturbation``) to its values (model, tile), NaN where a tile was not
        scored; and to the models (model,) that have the perturbation.
    """
    values, supported = {}, {}
    for perturbation in map(str, data.perturbation.to_numpy()):
        part = data.sel(perturbation=perturbation)
        status = part.status.to_numpy()
        scored = status == STATUS["scored"]
        able = scored.any(axis=1) | ~(status == STATUS["unsupported"]).any(axis=1)
        for metric in data.attrs["metrics"]:
            if applies(metric, perturbation):
                name = f"{metric}@{perturbation}"
                values[name] = np.where(scored, part[metric].to_numpy(), np.nan)
                supported[name] = able
    return values, supported
