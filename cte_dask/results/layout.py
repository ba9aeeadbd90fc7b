"""The layout of a score store: what its numbers mean, as plain data and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cte_dask.consistency import needs_instances
from cte_dask.consistency.score_names import ScoreName, score_names
from cte_dask.tiles import BlockGrid, Shape, TileGrid

if TYPE_CHECKING:
    from cte_dask.scoring.experiment import Experiment

__all__ = ["AT_ONCE", "DONE", "Layout", "layout_of"]

SCHEMA = "cte-scores/2"
AT_ONCE = 64
"""Blocks that are read together."""
DONE = {"missing": 0, "complete": 1, "failures": 2, "partial": 3}
"""Marks of a block; ``partial``: without failures, but not of every model."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the numbers of a store mean.

    Parameters
    ----------
    blocks
        The blocks and their tiles.
    models, perturbations, metrics
        Names, in the order of the axes; the first metric ranks.
    repeats
        Draws of each perturbation, N_pert.
    primary
        The score that ranks, or the one that stands for all that a rule ranks by.
    rule
        How models are ranked: ``score`` by `primary`, ``transfer`` by
        `cte_dask.ranking.transfer`.
    origin
        First voxel of the region in the target's array (z, y, x).
    voxel_size_nm, translation_nm
        Voxel size, and centre of the array's first voxel, in nanometre (z, y, x); None along an
        axis where it is not known.
    experiment
        Hash of the experiment.
    """

    blocks: BlockGrid
    models: tuple[str, ...]
    perturbations: tuple[str, ...]
    metrics: tuple[str, ...]
    repeats: int
    primary: ScoreName
    rule: str
    origin: Shape
    voxel_size_nm: tuple[float | None, ...]
    translation_nm: tuple[float | None, ...]
    experiment: str

    @property
    def instances(self) -> bool:
        """Whether the models' objects are compared, too."""
        return needs_instances(self.metrics)

    @property
    def scores(self) -> tuple[ScoreName, ...]:
        """The scores that the numbers give."""
        return score_names(self.metrics, self.perturbations)

    def draws(self, perturbation: str) -> slice:
        """Return the places of a perturbation's draws along the axis of draws."""
        first = self.perturbations.index(perturbation) * self.repeats
        return slice(first, first + self.repeats)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the store's attributes."""
        grid = self.blocks.grid
        return {
            "schema": SCHEMA,
            "shape": grid.shape,
            "tile": grid.tile,
            "keep_cut": grid.keep_cut,
            "per_block": self.blocks.per_block,
            **{name: getattr(self, name) for name in _PLAIN},
            "primary": str(self.primary),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Layout:
        """Read what `to_dict` wrote.

        Raises
        ------
        ValueError
            If it is not the layout of a score store, or of another version.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"not a score store of schema {SCHEMA}: {data.get('schema')!r}; a run of another "
                "version is read by the version that wrote it: rank into another --out, or "
                "--overwrite"
            )
        grid = TileGrid(_triple(data["shape"]), _triple(data["tile"]), data["keep_cut"])
        rest: dict[str, Any] = {
            n: tuple(v) if isinstance(v := data[n], list) else v for n in _PLAIN
        }
        blocks, primary = BlockGrid(grid, _triple(data["per_block"])), data["primary"]
        return cls(blocks=blocks, **{**rest, "primary": ScoreName.parse(primary)})


_PLAIN = (
    "models",
    "perturbations",
    "metrics",
    "repeats",
    "primary",
    "rule",
    "origin",
    "voxel_size_nm",
    "translation_nm",
    "experiment",
)


def _triple(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x


def layout_of(experiment: Experiment) -> Layout:
    """Return the layout of an experiment's scores."""
    volume = experiment.volume
    size = volume.voxel_size
    return Layout(
        blocks=experiment.blocks,
        models=tuple(c.name for c in experiment.candidates),
        perturbations=tuple(p.name for p in experiment.perturbations),
        metrics=experiment.metrics,
        repeats=experiment.repeats,
        primary=experiment.primary,
        rule=experiment.rule,
        origin=volume.origin,
        voxel_size_nm=(None, None, None) if size is None else size.lengths,
        translation_nm=volume.translation or (None, None, None),
        experiment=experiment.digest(),
    )
