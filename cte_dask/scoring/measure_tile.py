"""Models measured on a tile that somebody labelled: predicted once more, unperturbed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.arrays import set_threads
from cte_dask.errors import FOREIGN, reason
from cte_dask.scoring.block_reader import read_window
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.score_tiles import TileScorer
from cte_dask.scoring.tile_accuracy import accuracy_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.scoring.experiment import Experiment

__all__ = ["TileAccuracy", "measure_tile", "unmeasured_tile"]


@dataclass(frozen=True, slots=True)
class TileAccuracy:
    """How well the models of a bank do on a labelled tile.

    Parameters
    ----------
    tile
        Number of the tile.
    f1, precision
        F1 of the foreground and average precision of the instances, by name of the model; NaN
        where neither labels nor prediction hold any. Precision is NaN unless instances are
        compared.
    failures
        Why a model could not be measured, by name.
    """

    tile: int
    f1: dict[str, float] = field(default_factory=dict)
    precision: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure_tile(experiment: Experiment, number: int, labels: NDArray[Any]) -> TileAccuracy:
    """Compare what every model predicts on a tile with labels of it.

    Parameters
    ----------
    experiment
        The run.
    number
        Of the tile, in ``experiment.grid``.
    labels
        Integers of the tile's extent (z, y, x), 0 the background.

    Returns
    -------
    TileAccuracy
        A model that raises, or a tile that cannot be read, is a failure with its cause, never a
        number.
    """
    set_threads(experiment.threads)
    accuracy = TileAccuracy(number)
    # blocks of one tile: a tile's number is its block's, and nothing else is read
    single = replace(experiment, per_block=(1, 1, 1))
    block = single.blocks.block_at(number)
    try:
        window = read_window(single, block, ())
    except (OSError, ValueError) as error:
        names = [c.name for c in experiment.candidates]
        return unmeasured_tile(number, names, reason(error))
    for candidate in experiment.candidates:
        try:
            ready = predictor(candidate, single.inference)
            scorer = TileScorer(single, ready, window, candidate.channels)
            ((_, ((foreground, instances),)),) = scorer.predictions(block.tiles, ())
            _check_finite(foreground)
            measures = accuracy_of(candidate.spec, foreground, instances, labels)
        except FOREIGN as error:  # foreign code: one model's fault must not stop the bank
            accuracy.failures[candidate.name] = reason(error)
        else:
            accuracy.f1[candidate.name], accuracy.precision[candidate.name] = measures
    return accuracy


def _check_finite(foreground: NDArray[np.float32]) -> None:
    if not np.isfinite(foreground).all():
        raise ValueError("the prediction holds NaN or infinity")


def unmeasured_tile(number: int, names: Iterable[str], cause: str) -> TileAccuracy:
    """Return a tile on which no model was measured, and why.

    Parameters
    ----------
    number
        Of the tile.
    names
        Of the models.
    cause
        The same for all models.
    """
    return TileAccuracy(number, failures=dict.fromkeys(names, cause))
