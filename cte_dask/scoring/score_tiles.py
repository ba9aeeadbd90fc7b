"""Scoring some tiles under one model: frames cut, passes run, predictions compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.arrays import namespace
from cte_dask.consistency import STATISTICS
from cte_dask.scoring.block_reader import Window, shifted
from cte_dask.scoring.tile_statistics import PAIRS, tile_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.outputs import Prediction
    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb.draw import Draw
    from cte_dask.perturb.views import View
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.tiles import Shape, Tile

__all__ = ["COLUMNS", "STATUS", "Keep", "Work", "groups"]

STATUS = {
    "absent": 0,  # not computed
    "scored": 1,
    "masked": 2,  # outside the mask: no inference ran
    "non_finite_input": 3,  # NaN or infinity among the voxels the model would see
    "non_finite_output": 4,  # the model gave NaN
    "unsupported": 5,  # the model has no such perturbation
    "failed": 6,  # an error; its cause is in the ledger
}
COLUMNS = (*STATISTICS, *PAIRS, "status")
Keep = Callable[..., None]
"""`cte_dask.scoring.bank_overlaps.BankOverlaps.keep` for one model; tiles by their place in a
group."""


@dataclass(frozen=True, slots=True)
class Work:
    """One model over one block.

    Parameters
    ----------
    experiment
        The run.
    ready
        The model, loaded.
    window
        The voxels of the block.
    """

    experiment: Experiment
    ready: Predictor
    window: Window

    def score(
        self, tiles: Sequence[Tile], draws: Sequence[Draw], keep: Keep | None = None
    ) -> NDArray[np.float64]:
        """Score some tiles.

        Parameters
        ----------
        tiles
            T tiles, about one batch.
        draws
            The perturbed runs that the model supports.
        keep
            Takes the unperturbed predictions of the tiles that have one.

        Returns
        -------
        ndarray of float64, shape (draw, column, T)
            Columns are `COLUMNS`.
        """
        boxes = {self.ready.view(None).box, *(self.ready.view(d.perturbation).box for d in draws)}
        values = np.full((len(draws), len(COLUMNS), len(tiles)), np.nan)
        values[:, -1] = STATUS["non_finite_input"]
        good = [i for i, t in enumerate(tiles) if all(self._finite(t, box) for box in boxes)]
        if not good or not draws:
            return values
        whole = [tiles[i] for i in good]
        reference, *perturbed = self.predict(whole, draws)
        output = self.ready.spec.output
        how: dict[str, Any] = {
            "cores": [tuple(slice(0, s) for s in t.shape) for t in whole],
            "threshold": 0.0 if output.classes else output.threshold,
        }
        for number, prediction in enumerate(perturbed):
            counts = tile_statistics(reference, prediction, border=self.experiment.border, **how)
            values[number][:-1, good] = counts.T
            broken = counts[:, STATISTICS.index("n_nan")] > 0
            status = np.where(broken, STATUS["non_finite_output"], STATUS["scored"])
            values[number][-1, good] = status
        if keep is not None:
            row = [d.perturbation.space for d in draws].index("none")
            keep(good, reference, known=values[row, -1, good] == STATUS["scored"], **how)
        return values

    def predict(self, tiles: Sequence[Tile], draws: Sequence[Draw]) -> list[Prediction]:
        """Predict some tiles: the reference, then one prediction a draw."""
        experiment = self.experiment

        def around(view: View) -> Any:
            boxes = [self._box(tile, view.box) for tile in tiles]
            return namespace(self.window.voxels).stack(boxes).astype("float32")

        if experiment.intensity is None:
            raise ValueError("the target's intensities were not sampled: resolve with sample=True")
        return self.ready.run(
            around(self.ready.view(None)),
            tiles,
            draws,
            intensity=experiment.intensity,
            seed=experiment.seed,
            around=around,
        )

    def _box(self, tile: Tile, box: tuple[Shape, Shape]) -> Any:
        before, shape = box
        return self.window.frame(shifted(tile.start, before, -1), shape)

    def _finite(self, tile: Tile, box: tuple[Shape, Shape]) -> bool:
        voxels = self._box(tile, box)
        return bool(namespace(voxels).isfinite(voxels).all())


def groups(indices: NDArray[np.int64], ready: Predictor) -> Iterator[NDArray[np.int64]]:
    """Cut tiles into groups that fill about one batch."""
    planes = 1 if ready.spec.dims == 3 else ready.tile[0]
    size = max(1, ready.batch // planes)
    for low in range(0, len(indices), size):
        yield indices[low : low + size]
