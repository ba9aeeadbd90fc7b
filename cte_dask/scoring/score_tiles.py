"""Scoring some tiles under one model: frames cut, passes run, predictions compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.arrays import namespace, to_numpy
from cte_dask.scoring.block_reader import Window, shifted
from cte_dask.scoring.block_scores import STATUS, TileScores, unscored
from cte_dask.scoring.tile_statistics import tile_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cte_dask.inference.outputs import Prediction
    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb import Draw
    from cte_dask.perturb.views import View
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.tiles import Shape, Tile

__all__ = ["Keep", "TileScorer", "groups"]

Keep = Callable[..., None]
"""`cte_dask.scoring.bank_votes.BankVotes.keep` for one model; tiles by their place in a
group."""


@dataclass(frozen=True, slots=True)
class TileScorer:
    """One model over one block.

    Parameters
    ----------
    experiment
        The run.
    ready
        The model, loaded.
    window
        The voxels of the block.
    channels
        Channels of the target that the model sees; empty for the one seen by default.
    """

    experiment: Experiment
    ready: Predictor
    window: Window
    channels: tuple[int, ...] = ()

    def score(
        self, tiles: Sequence[Tile], draws: Sequence[Draw], keep: Keep | None = None
    ) -> TileScores:
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
        TileScores
            Of shape (draw, T).
        """
        boxes = {self.ready.view(None).box, *(self.ready.view(d.perturbation).box for d in draws)}
        scores = unscored((len(draws), len(tiles)), "non_finite_input")
        finite = np.flatnonzero(self._finite(tiles, boxes)).tolist()
        if not finite or not draws:
            return scores
        predicted = [tiles[i] for i in finite]
        reference, *perturbed = self.predict(predicted, draws)
        limits: dict[str, Any] = {
            "cores": [tuple(slice(0, s) for s in t.shape) for t in predicted],
            "threshold": self.ready.spec.output.map_threshold,
        }
        for draw, prediction in enumerate(perturbed):
            counts = tile_statistics(reference, prediction, border=self.experiment.border, **limits)
            broken = counts["n_nan"] > 0
            status = np.where(broken, STATUS["non_finite_output"], STATUS["scored"])
            scores[draw, finite] = TileScores(counts, status)
        if keep is not None:
            # a perturbed prediction may be broken alone: one draw without NaN clears the reference
            valid = scores.scored[:, finite].any(axis=0)
            keep(finite, reference, valid=valid, **limits)
        return scores

    def predict(self, tiles: Sequence[Tile], draws: Sequence[Draw]) -> list[Prediction]:
        """Predict some tiles: the reference, then one prediction a draw."""
        experiment = self.experiment

        def around(view: View) -> Any:
            boxes = [self._box(tile, view.box) for tile in tiles]
            return namespace(self.window.voxels).stack(boxes).astype("float32")

        return self.ready.run(
            around(self.ready.view(None)),
            tiles,
            draws,
            intensity=experiment.intensity_of(self.channels),
            seed=experiment.seed,
            around=around,
        )

    def predictions(
        self, tiles: Sequence[Tile], draws: Sequence[Draw]
    ) -> Iterator[tuple[Tile, list[tuple[Any, Any | None]]]]:
        """Yield the predictions of any number of tiles, tile by tile, to look at or to measure.

        Parameters
        ----------
        tiles
            The tiles.
        draws
            The perturbed runs wanted.

        Yields
        ------
        tuple
            The tile; of the reference, then of each draw, its foreground probability (the largest
            of the classes), float32, and its instance labels, int32, None where no metric needs
            any; (z, y, x) of the tile's extent, on the host.
        """
        for group in groups(np.arange(len(tiles)), self.ready):
            chosen = [tiles[i] for i in group]
            passes = self.predict(chosen, draws)
            for number, tile in enumerate(chosen):
                core = number, *(slice(0, s) for s in tile.shape)
                yield (
                    tile,
                    [
                        (
                            np.maximum.reduce([to_numpy(m[core]) for m in p.foreground]),
                            None if p.labels is None else to_numpy(p.labels[core]),
                        )
                        for p in passes
                    ],
                )

    def _box(self, tile: Tile, box: tuple[Shape, Shape]) -> Any:
        before, shape = box
        return self.window.frame(shifted(tile.start, before, -1), shape, self.channels)

    def _finite(
        self, tiles: Sequence[Tile], boxes: Collection[tuple[Shape, Shape]]
    ) -> NDArray[np.bool_]:
        """Tell which tiles hold no NaN or infinity in what is read of them, bool (tile,)."""
        xp = namespace(self.window.voxels)
        if self.window.voxels.dtype.kind in "biu":
            return np.ones(len(tiles), bool)
        finite = [[xp.isfinite(self._box(t, box)).all() for box in boxes] for t in tiles]
        # one answer for all: a device is not waited for at each
        answers = to_numpy(xp.stack([xp.stack(f) for f in finite]))
        every: NDArray[np.bool_] = np.logical_and.reduce(answers, axis=1)
        return every


def groups(indices: NDArray[np.int64], ready: Predictor) -> Iterator[NDArray[np.int64]]:
    """Cut tiles into groups that fill about one batch."""
    planes = 1 if ready.spec.dims == 3 else ready.tile[0]
    size = max(1, ready.batch // planes)
    for low in range(0, len(indices), size):
        yield indices[low : low + size]
