"""Perturbations of geometry: a tile turned, mirrored or magnified, its prediction mapped back.

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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, permutations, product
from typing import TYPE_CHECKING

from cte_dask.perturb.kinds import GeometricPerturbation, Warp
from cte_dask.perturb.philox import Key, uniform
from cte_dask.perturb.views import TileContext, View
from cte_dask.tiles import Frame, Scale, Shape, frame_of

if TYPE_CHECKING:
    from torch import Tensor

Groups = tuple[tuple[int, ...], ...]
"""Groups of axes (0 z, 1 y, 2 x) that a rotation may exchange."""

__all__ = ["Mirror", "Rotate", "Symmetry", "Zoom", "mirrors", "rotations"]


class Rotate(GeometricPerturbation):
    """One symmetry of the box, drawn among the proper rotations that exchange axes."""

    has_strength = False

    def view(self, context: TileContext, strength: float) -> View:
        """Return a box whose exchangeable axes are equally long.

        They are y and x of a 2D model; of a 3D model those along which the tile is, too.
        """
        groups = _groups(context)
        frame = frame_of(
            _over(groups, context.tile, max),
            halo=_over(groups, context.halo, max),
            multiple=_over(groups, context.multiple, _least_multiple),
            scale=context.scale,
        )
        return View(frame.before, frame.shape, frame, context)

    def warp(self, view: View, strength: float, keys: Sequence[Key]) -> Warp:
        """Draw the rotation of each tile."""
        from cte_dask.perturb.warps import Turned

        return Turned(view, _drawn(rotations(view), keys))


class Mirror(GeometricPerturbation):
    """The image reversed along one axis, drawn among those of the model."""

    has_strength = False

    def warp(self, view: View, strength: float, keys: Sequence[Key]) -> Warp:
        """Draw the reflection of each tile."""
        from cte_dask.perturb.warps import Turned

        return Turned(view, _drawn(mirrors(view), keys))


class Zoom(GeometricPerturbation):
    """The image magnified θ times about the tile, of a 2D model in the plane."""

    accepted = "a factor from 0.5 to 2"
    random = False
    meaning = "factor"
    typical = (0.8, 1.25)

    def accepts(self, strength: float) -> bool:
        """Whether it lies from 0.5 to 2."""
        return 0.5 <= strength <= 2

    def view(self, context: TileContext, strength: float) -> View:
        """Return the box that the magnified frame is interpolated from."""
        factor = _factor(context.dims, strength)
        frame = _magnified_frame(context, factor)
        return View(*_box_of(frame, factor), frame, context)

    def warp(self, view: View, strength: float, keys: Sequence[Key]) -> Warp:
        """Return the magnification, the same for all tiles."""
        from cte_dask.perturb.warps import Magnified

        return Magnified(view, _factor(view.dims, strength))


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
    group = {axis: g for g in _groups(view.context) for axis in g}
    orders = [
        order
        for order in permutations(range(3))
        if all(a == i or a in group.get(i, ()) for i, a in enumerate(order))
    ]
    signs = [(False, True) if i >= 3 - view.dims else (False,) for i in range(3)]
    return [Symmetry(order, flips) for order in orders for flips in product(*signs)]


def _drawn(symmetries: Sequence[Symmetry], keys: Sequence[Key]) -> tuple[Symmetry, ...]:
    return tuple(symmetries[int(uniform(key, 1)[0] * len(symmetries))] for key in keys)


def _groups(context: TileContext) -> Groups:
    """Return the groups of two or more axes that may be exchanged."""
    axes = (0, 1, 2)[-context.dims :]

    def kind(axis: int) -> tuple[int, int]:
        return context.alike[axis], context.tile[axis] if context.dims == 3 else 0

    grouped = (tuple(g) for _, g in groupby(sorted(axes, key=kind), key=kind))
    return tuple(g for g in grouped if len(g) > 1)


def _least_multiple(values: list[int]) -> int:
    return math.lcm(*values)


def _over(groups: Groups, values: Shape, combined: Callable[[list[int]], int]) -> Shape:
    """Replace the values along the axes of each group by one combined of them."""
    result = list(values)
    for group in groups:
        value = combined([values[axis] for axis in group])
        for axis in group:
            result[axis] = value
    return result[0], result[1], result[2]


def _factor(dims: int, strength: float) -> Scale:
    """Return the voxels of the magnified grid per voxel of the target (z, y, x)."""
    return strength if dims == 3 else 1.0, strength, strength


def _magnified_frame(context: TileContext, factor: Scale) -> Frame:
    """Return the frame of the magnified tile, in voxels of the magnified grid."""
    z, y, x = (math.ceil(t * f) for t, f in zip(context.tile, factor, strict=True))
    # below 1 the first voxel's centre lies before the magnified tile: one more voxel of context
    c, b, a = (h + (f < 1) for h, f in zip(context.halo, factor, strict=True))
    return frame_of((z, y, x), halo=(c, b, a), multiple=context.multiple, scale=context.scale)


def _box_of(frame: Frame, factor: Scale) -> tuple[Shape, Shape]:
    """Return the voxels of the target that a magnified frame is interpolated from."""
    ends = []
    for before, after, f in zip(frame.before, frame.after, factor, strict=True):
        first = math.floor((0.5 - before) / f - 0.5)
        last = math.floor((after - 0.5) / f - 0.5) + 1  # the right neighbour of the last sample
        ends.append((-first, last - first + 1))
    (z, y, x) = ends
    return (z[0], y[0], x[0]), (z[1], y[1], x[1])
