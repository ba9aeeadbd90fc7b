"""Tile scores as plain arrays: what ranks models reads them, and loads no xarray for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["ScoreTable"]

Variables = Mapping[str, tuple[tuple[str, ...], Any]]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Tile scores by name; ``table[name]`` is the array of a variable or of a place.

    Parameters
    ----------
    models, perturbations
        Names along the axes of a variable (model, perturbation, tile).
    variables
        For each name its dimensions and array, as `cte_dask.score` names them.
    places
        Where tiles lie, alike: ``tile``, ``z``, ``block`` …
    attrs
        What is told of all of them.
    """

    models: tuple[str, ...]
    perturbations: tuple[str, ...]
    variables: Variables
    places: Variables
    attrs: dict[str, Any]

    @classmethod
    def of(cls, scores: ScoreTable | xr.Dataset) -> ScoreTable:
        """Return tile scores as plain arrays.

        Parameters
        ----------
        scores
            From `cte_dask.score` or `cte_dask.read_scores`, computed if lazy; or what this returns.
        """
        if isinstance(scores, ScoreTable):
            return scores
        data = scores.compute()
        axes = ("model", "perturbation")
        models, perturbations = (tuple(map(str, data[axis].to_numpy())) for axis in axes)
        arrays = {n: (tuple(map(str, v.dims)), v.to_numpy()) for n, v in data.variables.items()}
        variables = {str(name): arrays[name] for name in data.data_vars}
        places = {str(name): arrays[name] for name in data.coords if name not in axes}
        return cls(models, perturbations, variables, places, dict(data.attrs))

    def dataset(self) -> xr.Dataset:
        """Return the same as a Dataset."""
        import xarray as xr

        names = {"model": list(self.models), "perturbation": list(self.perturbations)}
        return xr.Dataset(self.variables, coords={**names, **self.places}, attrs=self.attrs)

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def __getitem__(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = (self.variables if name in self.variables else self.places)[name][1]
        return array

    @property
    def sizes(self) -> Mapping[str, int]:
        """Extent along each dimension."""
        arrays = self.variables.values()
        return {d: n for dims, array in arrays for d, n in zip(dims, array.shape, strict=True)}

    @property
    def starts(self) -> NDArray[np.int64]:
        """First voxel of each tile, (tile, 3), zyx."""
        return np.stack([self[axis] for axis in "zyx"], axis=1)
