"""Perturbed runs: each perturbation, drawn a number of times, keyed by what it must depend on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cte_dask.perturb import Perturbation, philox
from cte_dask.tiles import Tile

__all__ = ["Draw", "draws_of"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One perturbed run: a perturbation and the number of its repeat."""

    perturbation: Perturbation
    repeat: int

    def key(self, seed: int, tile: Tile, layer: int = 0) -> tuple[int, int]:
        """Return the Philox key of this run's draw for a tile (and layer)."""
        return philox.key(seed, self.perturbation.name, self.repeat, tile.index, layer)


def draws_of(perturbations: Iterable[Perturbation], repeats: int) -> tuple[Draw, ...]:
    """Return every perturbed run: each perturbation `repeats` times."""
    return tuple(Draw(p, r) for p in perturbations for r in range(repeats))
