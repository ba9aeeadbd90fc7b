"""Geometric perturbations: a tile turned, mirrored or magnified, its prediction mapped back.

A network that has learnt what its objects look like finds them whichever way they lie and at a
slightly other size; one that fits the target badly does not. The canonical image is moved, not its
values, so that a black box can be perturbed like any other model:

``rotate``
    One symmetry of the box a tile and repeat, drawn among the proper rotations that exchange axes:
    in the plane 90° or 270°. Axes are exchanged only where their voxels are equally long; of a 3D
    model also only where the tile is. Where no axes may be exchanged, half turns.
``mirror``
    The image reversed along one axis, drawn a tile and repeat: y or x, of a 3D model z, y or x.
``zoom:θ``
    The image magnified θ times about the tile (linear interpolation at the centres of the finer
    voxels); of a 2D model in the plane. The output is interpolated back, before its activation,
    to the centres of the tile's voxels.

Rotations and mirrors only move voxels, so that an equivariant network gives the same prediction to
the last bit. Maps of labels are mapped back by the nearest voxel. Draws are counter-based and know
no model: every model sees the same image (in one number of dimensions and one grid of voxels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cte_dask.perturb.philox import Key, uniform
from cte_dask.perturb.views import View

Places = NDArray[np.floating]

__all__ = ["Symmetry", "Warp", "mirror", "mirrors", "rotate", "rotations", "unmoved", "zoom"]


class Warp(Protocol):
    """One geometric perturbation of a group of tiles: there, and back."""

    def image(self, frames: Tensor) -> Tensor:
        """Return the frames that the network sees, (T, z, y, x), of the boxes read."""
        ...

    def back(self, maps: Tensor, first: int = 0, *, nearest: bool = False) -> Tensor:
        """Map what the network gave back to the tiles' own voxels.

        Parameters
        ----------
        maps
            On the grid of the frames, (S, C, z, y, x); planes of a 2D model are samples of their
            own, (S, C, y, x).
        first
            Number of the first sample among those of all tiles.
        nearest
            Take the nearest voxel where one is to be interpolated, for labels.

        Returns
        -------
        Tensor
            Cut to whole tiles, (S, C, [z,] y, x).
        """
        ...


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A symmetry of the box: axes exchanged, then some of them reversed.

    Parameters
    ----------
    order
        Which axis (0 z, 1 y, 2 x) each axis of the result is taken from.
    reversed
        Whether each axis of the result is reversed.
    """

    order: tuple[int, ...]
    reversed: tuple[bool, ...]

    @property
    def proper(self) -> bool:
        """Whether it is a rotation, no reflection (its determinant is 1)."""
        swaps = sum(a > b for i, a in enumerate(self.order) for b in self.order[i + 1 :])
        return (swaps + sum(self.reversed)) % 2 == 0

    def apply(self, x: Tensor) -> Tensor:
        """Return (z, y, x), the last three axes of `x`, moved."""
        moved = x.permute(*range(x.ndim - 3), *(x.ndim - 3 + a for a in self.order))
        return moved.flip([x.ndim - 3 + i for i, r in enumerate(self.reversed) if r])

    def undo(self, x: Tensor) -> Tensor:
        """Return what `apply` was given, exactly."""
        moved = x.flip([x.ndim - 3 + i for i, r in enumerate(self.reversed) if r])
        return moved.permute(
            *range(x.ndim - 3), *(x.ndim - 3 + self.order.index(i) for i in range(3))
        )


def rotations(view: View) -> tuple[Symmetry, ...]:
    """Return the rotations that ``rotate`` draws from: quarter turns, else half turns."""
    proper = [s for s in _symmetries(view) if s.proper]
    turns = [s for s in proper if s.order != (0, 1, 2)]
    return tuple(turns or [s for s in proper if any(s.reversed)])


def mirrors(view: View) -> tuple[Symmetry, ...]:
    """Return the reflections that ``mirror`` draws from: one a spatial axis of the model."""
    flat = (s for s in _symmetries(view) if s.order == (0, 1, 2))
    return tuple(s for s in flat if sum(s.reversed) == 1)


def _symmetries(view: View) -> list[Symmetry]:
    """List the symmetries that exchange axes only within the groups of a view."""
    group = {axis: g for g in view.exchanged for axis in g}
    kept = [
        order
        for order in permutations(range(3))
        if all(a == i or a in group.get(i, ()) for i, a in enumerate(order))
    ]
    signs = [(False, True) if i >= 3 - view.dims else (False,) for i in range(3)]
    return [Symmetry(order, flips) for order in kept for flips in product(*signs)]


def rotate(view: View, strength: float, keys: Sequence[Key]) -> Warp:
    """Return the rotation of each tile.

    Parameters
    ----------
    view
        What is read of a tile.
    strength
        Unused: a rotation has none.
    keys
        Philox key of each tile.
    """
    return _Turned(view, _drawn(rotations(view), keys))


def mirror(view: View, strength: float, keys: Sequence[Key]) -> Warp:
    """Return the reflection of each tile; as `rotate`."""
    return _Turned(view, _drawn(mirrors(view), keys))


def zoom(view: View, strength: float, keys: Sequence[Key]) -> Warp:
    """Return the magnification, the same for all tiles; its factor is the view's."""
    return _Magnified(view)


def unmoved(view: View) -> Warp:
    """Return what the unperturbed pass does: nothing is moved, the tile is cut out."""
    return _Turned(view, None)


def _drawn(symmetries: Sequence[Symmetry], keys: Sequence[Key]) -> tuple[Symmetry, ...]:
    return tuple(symmetries[int(uniform(key, 1)[0] * len(symmetries))] for key in keys)


@dataclass(frozen=True, slots=True)
class _Turned:
    """Symmetries, one a tile; None leaves every tile as it is."""

    view: View
    symmetries: tuple[Symmetry, ...] | None

    def image(self, frames: Tensor) -> Tensor:
        if self.symmetries is None:
            return frames
        pairs = zip(self.symmetries, frames, strict=True)
        return torch.stack([symmetry.apply(frame) for symmetry, frame in pairs])

    def back(self, maps: Tensor, first: int = 0, *, nearest: bool = False) -> Tensor:
        if self.symmetries is not None:
            planes = 1 if self.view.dims == 3 else self.view.tile[0]
            rows = range(first, first + len(maps))
            undone = [self._undone(m, i // planes) for i, m in zip(rows, maps, strict=True)]
            maps = torch.stack(undone)
        for axis in range(-self.view.dims, 0):
            maps = maps.narrow(axis, self.view.frame.before[axis], self.view.tile[axis])
        return maps

    def _undone(self, maps: Tensor, tile: int) -> Tensor:
        """Undo a tile's symmetry on one sample; a plane is a box of one."""
        symmetry = (self.symmetries or ())[tile]
        if self.view.dims == 3:
            return symmetry.undo(maps)
        return symmetry.undo(maps[..., None, :, :])[..., 0, :, :]


@dataclass(frozen=True, slots=True)
class _Magnified:
    """Separable interpolation at exact centres: no model's halo moves a sample."""

    view: View

    def image(self, frames: Tensor) -> Tensor:
        view = self.view
        for axis, (before, extent, low, factor) in enumerate(
            zip(view.frame.before, view.frame.shape, view.before, view.factor, strict=True)
        ):
            centres = (np.arange(-before, extent - before) + 0.5) / factor - 0.5
            frames = _sampled(frames, frames.ndim - 3 + axis, centres + low)
        return frames

    def back(self, maps: Tensor, first: int = 0, *, nearest: bool = False) -> Tensor:
        view = self.view
        maps = maps if nearest else maps.float()
        for axis in range(3 - view.dims, 3):
            centres = (np.arange(view.tile[axis]) + 0.5) * view.factor[axis] - 0.5
            at = centres + view.frame.before[axis]
            maps = _sampled(maps, maps.ndim - 3 + axis, at, nearest=nearest)
        return maps


def _sampled(x: Tensor, axis: int, at: Places, *, nearest: bool = False) -> Tensor:
    """Sample along one axis at fractional places; what would lie outside is the edge."""
    if nearest:
        return _taken(x, axis, np.floor(at + 0.5))
    low = np.floor(at)
    left = _taken(x, axis, low)
    if not (at > low).any():
        return left
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    weight = torch.from_numpy(at - low).to(x.device, x.dtype).reshape(shape)
    return left + (_taken(x, axis, low + 1) - left) * weight


def _taken(x: Tensor, axis: int, index: Places) -> Tensor:
    inside = np.clip(index, 0, x.shape[axis] - 1).astype(np.int64)
    return x.index_select(axis, torch.from_numpy(inside).to(x.device))
