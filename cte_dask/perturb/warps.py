"""Moving voxels there and back: symmetries of the box and magnification, in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cte_dask.perturb.kinds import Warp
from cte_dask.perturb.views import View
from cte_dask.tiles import Scale

if TYPE_CHECKING:
    from cte_dask.perturb.geometry import Symmetry

__all__ = ["Magnified", "Turned", "unmoved"]

Places = NDArray[np.floating]


def unmoved(view: View) -> Warp:
    """Return what the unperturbed pass does: nothing is moved, the tile is cut out."""
    return Turned(view, None)


@dataclass(frozen=True, slots=True)
class Turned:
    """Symmetries of the box.

    Parameters
    ----------
    view
        What is read of a tile.
    symmetries
        One a tile; None leaves every tile as it is.
    """

    view: View
    symmetries: tuple[Symmetry, ...] | None

    def image(self, frames: Tensor) -> Tensor:
        """Move the frames; see `cte_dask.perturb.kinds.Warp`."""
        if self.symmetries is None:
            return frames
        pairs = zip(self.symmetries, frames, strict=True)
        return torch.stack([symmetry.apply(frame) for symmetry, frame in pairs])

    @property
    def reads(self) -> tuple[slice, ...]:
        """Where the tile lies in the network's output, whichever way it is turned."""
        frame, dims = self.view.frame, self.view.dims
        ends = zip(frame.before[-dims:], frame.shape[-dims:], self.view.tile[-dims:], strict=True)
        if self.symmetries is None:
            return tuple(slice(b, b + t) for b, _, t in ends)
        return tuple(slice(b, n - b) for b, n, _ in ends)

    def back(
        self, maps: Tensor, first: int = 0, *, nearest: bool = False, cut: bool = False
    ) -> Tensor:
        """Move maps back and cut them; see `cte_dask.perturb.kinds.Warp`."""
        if self.symmetries is not None:
            planes = 1 if self.view.dims == 3 else self.view.tile[0]
            rows = range(first, first + len(maps))
            undone = [self._undone(m, i // planes) for i, m in zip(rows, maps, strict=True)]
            maps = torch.stack(undone)
        for axis, read in enumerate(self.reads, start=-self.view.dims):
            start = self.view.frame.before[axis] - (read.start if cut else 0)
            maps = maps.narrow(axis, start, self.view.tile[axis])
        return maps

    def _undone(self, maps: Tensor, tile: int) -> Tensor:
        """Undo a tile's symmetry on one sample; a plane is a box of one."""
        symmetry = (self.symmetries or ())[tile]
        if self.view.dims == 3:
            return symmetry.undo(maps)
        return symmetry.undo(maps[..., None, :, :])[..., 0, :, :]


@dataclass(frozen=True, slots=True)
class Magnified:
    """Separable interpolation at exact centres: no model's halo moves a sample.

    Parameters
    ----------
    view
        What is read of a tile.
    factor
        Voxels of the magnified grid per voxel of the target (z, y, x).
    """

    view: View
    factor: Scale

    def image(self, frames: Tensor) -> Tensor:
        """Move the frames; see `cte_dask.perturb.kinds.Warp`."""
        view = self.view
        for axis, (before, extent, low, factor) in enumerate(
            zip(view.frame.before, view.frame.shape, view.before, self.factor, strict=True)
        ):
            centres = (np.arange(-before, extent - before) + 0.5) / factor - 0.5
            frames = _sampled(frames, frames.ndim - 3 + axis, centres + low)
        return frames

    @property
    def reads(self) -> tuple[slice, ...]:
        """What of the network's output the tile is interpolated from."""
        extent, axes = self.view.frame.shape, range(3 - self.view.dims, 3)
        ends = ((a, np.floor(self._places(a)[[0, -1]])) for a in axes)
        return tuple(slice(max(0, int(f)), min(int(t) + 2, extent[a])) for a, (f, t) in ends)

    def back(
        self, maps: Tensor, first: int = 0, *, nearest: bool = False, cut: bool = False
    ) -> Tensor:
        """Interpolate maps at the tile's voxels; see `cte_dask.perturb.kinds.Warp`."""
        maps = maps if nearest else maps.float()
        for axis, read in enumerate(self.reads, start=3 - self.view.dims):
            places = self._places(axis) - (read.start if cut else 0)
            maps = _sampled(maps, maps.ndim - 3 + axis, places, nearest=nearest)
        return maps

    def _places(self, axis: int) -> Places:
        """Return where the centres of the tile's voxels lie on the grid of the frame."""
        centres = (np.arange(self.view.tile[axis]) + 0.5) * self.factor[axis] - 0.5
        return centres + self.view.frame.before[axis]


def _sampled(x: Tensor, axis: int, places: Places, *, nearest: bool = False) -> Tensor:
    """Sample along one axis at fractional places; what would lie outside is the edge."""
    if nearest:
        return _taken(x, axis, np.floor(places + 0.5))
    low = np.floor(places)
    left = _taken(x, axis, low)
    if not (places > low).any():
        return left
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    weight = torch.from_numpy(places - low).to(x.device, x.dtype).reshape(shape)
    return left + (_taken(x, axis, low + 1) - left) * weight


def _taken(x: Tensor, axis: int, index: Places) -> Tensor:
    inside = np.clip(index, 0, x.shape[axis] - 1).astype(np.int64)
    return x.index_select(axis, torch.from_numpy(inside).to(x.device))
