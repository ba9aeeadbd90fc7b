"""Estimates corrected by the few tiles that somebody labelled.

On a labelled tile a model's number is known, and so is how far its estimate was off there. The mean
of that difference corrects the estimate of the whole target: prediction-powered inference
(Angelopoulos et al. 2023, doi:10.1126/science.adi6000). An error that all models share, which no
estimate without labels sees, goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cte_dask.ranking.bootstrap import Sampled, draw, median

if TYPE_CHECKING:
    from cte_dask.ranking.bootstrap import Resamples
    from cte_dask.results.score_table import ScoreTable

__all__ = ["LABELLED", "LABELLED_DIMS", "Truth", "labelled_score"]

Floats = npt.NDArray[np.float64]

LABELLED = {"f1": "labelled_f1", "precision": "labelled_precision"}
"""Variables of tile scores that hold what was measured: F1 of the foreground, and average precision
of instances. They are what ranks, too, where somebody labelled tiles."""
LABELLED_DIMS = "model", "labelled"


def labelled_score(data: ScoreTable) -> str | None:
    """Return what ranks by labels: F1, of instances average precision; None without labels.

    Parameters
    ----------
    data
        Tile scores.
    """
    name = LABELLED["precision" if "precision" in data else "f1"]
    return name if name in data and not np.isnan(data[name]).all() else None


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What models reach on labelled tiles.

    Parameters
    ----------
    values
        float64 (model, labelled tile), NaN where a tile says nothing of a model.
    place
        Where each labelled tile is among the tiles that have estimates, -1 if nowhere, (tile,).
    counts
        How often each labelled tile is drawn in each resample, (resample, tile).
    """

    values: Floats
    place: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: ScoreTable, name: str, *, seed: int) -> Truth | None:
        """Return what tile scores hold of it; None if nothing.

        Parameters
        ----------
        data
            Tile scores; see `cte_dask.ranking.labels.with_labels`.
        name
            A value of `LABELLED`.
        seed
            Of the bootstrap.
        """
        if name not in data:
            return None
        tiles = {int(t): place for place, t in enumerate(data["tile"])}
        labelled = data["labelled"]
        place = np.array([tiles.get(int(t), -1) for t in labelled], np.int64)
        # another stream than that of the regions: the two are drawn independently
        return cls(data[name], place, draw(len(labelled), seed=seed + 1))

    def corrected(self, model: int, estimates: Floats, draws: Resamples) -> Sampled:
        """Return a model's number, its estimates corrected.

        Parameters
        ----------
        model
            Its number.
        estimates
            One a tile, NaN where there is none, (tile,).
        draws
            Of the regions of the tiles.

        Returns
        -------
        Sampled
            The median of the estimates plus the mean over labelled tiles of what they were off;
            where no labelled tile has an estimate, the mean of what was measured, or, where nothing
            was, the estimates as they are. In [0, 1]; its tiles are what was measured, else what is
            estimated, corrected.
        """
        true = self.values[model]
        estimated = np.append(estimates, np.nan)[self.place]
        off = true - estimated
        known = ~np.isnan(off)
        base, resampled = median(estimates), draws.medians(estimates)
        if not known.any() and np.isnan(true).all():
            return Sampled(base, resampled, estimates)
        if not known.any():
            off, known, base, resampled = true, ~np.isnan(true), 0.0, np.zeros(len(self.counts))
        mean = float(off[known].mean())
        tiles = np.clip(estimates + mean, 0.0, 1.0)
        here = ~np.isnan(true) & (self.place >= 0)
        tiles[self.place[here]] = true[here]
        return Sampled(
            float(np.clip(base + mean, 0.0, 1.0)),
            np.clip(resampled + self._means(off, known), 0.0, 1.0),
            tiles,
        )

    def _means(self, values: Floats, known: npt.NDArray[np.bool_]) -> Floats:
        """Return the mean of the labelled tiles of each resample."""
        weights = self.counts[:, known]
        total = weights.sum(axis=1)
        mean: Floats = weights @ values[known] / np.maximum(total, 1)
        # a resample without any tile that tells of this model says nothing of the spread
        return np.where(total > 0, mean, values[known].mean())
