"""A prediction of one tile against labels of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.consistency.accuracy import f1
from cte_dask.consistency.objects import average_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.models.spec import ModelSpec

__all__ = ["accuracy_of"]


def accuracy_of(
    spec: ModelSpec,
    foreground: NDArray[np.floating],
    instances: NDArray[Any] | None,
    labels: NDArray[Any],
) -> tuple[float, float]:
    """Return F1 of a tile's foreground, and average precision of its instances.

    Parameters
    ----------
    spec
        The model.
    foreground
        Its probability, the largest of the classes, (z, y, x).
    instances
        Its instance labels, integers (z, y, x), 0 the background; None if there are none.
    labels
        Those of the truth, integers (z, y, x), 0 the background.

    Returns
    -------
    tuple of float
        NaN where neither holds any foreground; the second also where there are no instances.
    """
    overlap = f1(foreground > spec.output.map_threshold, labels > 0)
    if instances is None:
        return overlap, math.nan
    return overlap, average_precision(instances, _in_planes(labels, spec.dims))


def _in_planes(labels: NDArray[Any], dims: int) -> NDArray[Any]:
    """Return labels as a model of `dims` axes can find them: plane by plane for a 2D model."""
    if dims == 3 or len(labels) == 1:
        return labels
    # ids of each plane are shifted above those of the planes before: an object is one per plane
    above = int(labels.max()) * np.arange(len(labels), dtype=np.int64)[:, None, None]
    planes: NDArray[Any] = np.where(labels > 0, labels.astype(np.int64) + above, 0)
    return planes
