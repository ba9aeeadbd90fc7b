"""Order of models that were not all scored on the same tiles.

An anytime run stops scoring a model once it is beaten. Its median is then of fewer tiles than those
of others, and medians of different tiles are never compared: two models are compared on the tiles
that both were asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["placed"]


def placed(
    values: NDArray[np.float64],
    requested: NDArray[np.bool_],
    *,
    scores: NDArray[np.float64] | None = None,
) -> list[int]:
    """Return the numbers of models, best first.

    Parameters
    ----------
    values
        Consistencies (model, tile), NaN where a tile says nothing.
    requested
        Whether a model was to be scored on a tile (model, tile).
    scores
        What orders models of the same tiles, (model,), NaN last; by default their medians.

    Returns
    -------
    list of int
        Those asked for most tiles are ordered by their medians. Each of the others, the one asked
        for more tiles first, is placed below every model that is ahead of it on its own tiles.

    Examples
    --------
    On the two tiles that all share, model 2 lies between the others; its own median, of these two
    alone, would have made it the first.

    >>> import numpy as np
    >>> values = np.array([[0.9, 0.9, 0.4, 0.4, 0.4], [0.7, 0.7, 0.3, 0.3, 0.3], [0.8] * 5])
    >>> placed(values, requested=np.arange(5) < np.array([[5], [5], [2]]))
    [0, 2, 1]
    """
    numbers = requested.sum(axis=1)
    complete = np.flatnonzero(numbers == numbers.max(initial=0))
    own = scores if scores is not None else np.array([_median(row) for row in values])
    medians = {int(m): -math.inf if math.isnan(own[m]) else float(own[m]) for m in complete}
    order = sorted(medians, key=lambda m: -medians[m])
    for model in sorted(set(range(len(values))) - set(order), key=lambda m: -int(numbers[m])):
        few = values[:, requested[model]]
        ahead = [p for p, m in enumerate(order) if _median(few[m]) >= _median(few[model])]
        # behind the last one that is ahead: places that were settled before stay as they are
        order.insert(ahead[-1] + 1 if ahead else 0, model)
    return order


def _median(values: NDArray[np.float64]) -> float:
    chosen = values[~np.isnan(values)]
    return float(np.median(chosen)) if len(chosen) else -math.inf
