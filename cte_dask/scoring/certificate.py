"""Whether a model may run in lower precision than float32: what that changes in its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cte_dask.consistency import metric
from cte_dask.perturb import draws_of
from cte_dask.scoring.tile_statistics import tile_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.inputs import TileGroup
    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb import Draw, Perturbation
    from cte_dask.scoring.experiment import Candidate
    from cte_dask.scoring.real_tile import RealTile

__all__ = ["BOUND", "CALIBRATION_TILES", "Certificate", "certificate"]

CALIBRATION_TILES = 8
BOUND = 0.01
"""Of the change of a tile's score: models further apart than twice that keep their order."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """How a model's scores in low precision differ from those in float32.

    Parameters
    ----------
    precision
        The low one.
    tiles
        Tiles of the target that were scored in both.
    largest
        Largest change of a tile's score under any metric and perturbation; infinite where one
        precision gives a score and the other none.
    """

    precision: str
    tiles: int
    largest: float

    @property
    def holds(self) -> bool:
        """Whether no score changed by more than `BOUND`."""
        return self.largest <= BOUND

    def __str__(self) -> str:
        if not self.tiles:
            return ""
        changed = (
            f"{self.precision} changes scores of {self.tiles} tiles by up to {self.largest:.1g}"
        )
        return changed if self.holds else f"in float32: {changed}"


def certificate(
    loaded: Predictor,
    full: Predictor,
    candidate: Candidate,
    tiles: Sequence[RealTile],
    perturbations: Sequence[Perturbation],
) -> Certificate:
    """Score some tiles of the target in both precisions.

    Parameters
    ----------
    loaded, full
        The model, in low precision and in float32.
    candidate
        What it is used as.
    tiles
        The tiles.
    perturbations
        Those of the run.
    """
    draws = draws_of([p for p in perturbations if candidate.supports(p)], 1)
    view, largest = loaded.view(None), 0.0
    for tile in tiles:
        group = tile.group(view, loaded.device, candidate.channels)
        one, other = (_scores(ready, group, draws) for ready in (loaded, full))
        if bool((np.isnan(one) != np.isnan(other)).any()):
            largest = float("inf")
        elif bool(np.isfinite(one).any()):
            largest = max(largest, float(np.nanmax(np.abs(one - other))))
    return Certificate(loaded.precision, len(tiles), largest)


def _scores(ready: Predictor, group: TileGroup, draws: Sequence[Draw]) -> NDArray[np.float64]:
    """Return the scores of some tiles, (draw, metric, tile)."""
    reference, *perturbed = ready.run(
        group.frames,
        group.tiles,
        draws,
        intensity=group.intensity,
        seed=group.seed,
        around=group.around,
    )
    cores = [tuple(slice(0, n) for n in tile.shape) for tile in group.tiles]
    threshold = ready.spec.output.map_threshold
    tables = [tile_statistics(reference, p, cores=cores, threshold=threshold) for p in perturbed]
    names = ("nhd", "ei", "vrand") if ready.instances else ("nhd", "ei")
    return np.array([[np.asarray(metric(m)(t)) for m in names] for t in tables], np.float64)
