"""How a network behaves from one call to the next: the method compares calls, so this decides.

A network that remembers, or draws at random, gives another prediction of the same tile; its
consistency measures that and nothing else. One that normalises over its batch gives a tile a
prediction that depends on its neighbours in the batch, and so on the order of the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cte_dask.inference.device import rounding
from cte_dask.inference.passes import alike

if TYPE_CHECKING:
    from torch import Tensor

    from cte_dask.models.network import Network

__all__ = ["ALONE", "Conduct", "conduct_of"]

ALONE = "normalises over its batch: tiles are predicted one at a time"

TOLERANCE = 1e-5
"""Of the largest output: what rounding explains."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a network behaves.

    Parameters
    ----------
    steady
        Whether the same batch gives the same prediction again.
    alone
        Whether a sample's prediction does not depend on the others of its batch.
    """

    steady: bool = True
    alone: bool = True


def conduct_of(network: Network, x: Tensor, *, raw: bool) -> Conduct:
    """Try a network on two samples, on the same again, and on one of them beside another.

    Parameters
    ----------
    network
        The network.
    x
        A batch of noise from 0 to 1, (N, C, [z,] y, x), of an extent that the network takes.
    raw
        Whether it takes intensities as they are stored.

    Returns
    -------
    Conduct
    """
    number = network.fixed_batch or min(2, len(x))
    x = x[:1].repeat(number, *(1 for _ in x.shape[1:])) if len(x) < number else x[:number]
    tolerance = rounding(x, float32=TOLERANCE)
    with torch.inference_mode():
        first, again = (network.forward(x) for _ in range(2))
        if not alike(first, again, tolerance):
            return Conduct(steady=False)
        # networks that take raw intensities may be left cold by noise from 0 to 1
        levels = (1.0, 255.0) if raw else (1.0,)
        alone = number < 2 or all(_alone(network, c * x, tolerance) for c in levels)
    return Conduct(alone=alone)


def _alone(network: Network, x: Tensor, tolerance: float) -> bool:
    # darker and turned over: other statistics and another image
    beside = torch.cat([x[:1], 0.3 * x[1:].flip(-1)])
    one, other = (network.forward(batch)[:1] for batch in (x, beside))
    return alike(one, other, tolerance)
