"""Views: what a model reads and sees of a tile when a perturbation turns or magnifies it.

Integer geometry, no I/O, so that a block's margins are known before anything is loaded. The frame
of the unperturbed pass never changes: a perturbation that needs another box of the target reads its
own, and its halo covers the whole tile as the network sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from cte_dask.perturb import Perturbation
from cte_dask.tiles import SAME, Frame, Scale, Shape, frame_of

__all__ = ["Alike", "View", "view_of"]

Alike = tuple[int, int, int]
"""Axes (z, y, x) with equal numbers have voxels of equal length, in the target and the network."""


@dataclass(frozen=True, slots=True)
class View:
    """The box read around a tile, and the frame that it becomes before the network.

    Parameters
    ----------
    before, shape
        Context before the tile's start and extent of the box, voxels of the target (z, y, x).
    frame
        The tile's frame on the turned or magnified grid; `frame.before` and `frame.shape` count
        its voxels.
    tile
        Extent of a whole tile, voxels of the target (z, y, x).
    dims
        Spatial axes of the model, 2 or 3; planes of a 2D model keep their order.
    exchanged
        Groups of axes (0 z, 1 y, 2 x) that a rotation may exchange; along them the box is a cube.
    factor
        Voxels of the magnified grid per voxel of the target (z, y, x).
    """

    before: Shape
    shape: Shape
    frame: Frame
    tile: Shape
    dims: int
    exchanged: tuple[tuple[int, ...], ...] = ()
    factor: Scale = SAME

    @property
    def box(self) -> tuple[Shape, Shape]:
        """Where the box lies: `before` and `shape`."""
        return self.before, self.shape


def view_of(
    perturbation: Perturbation | None,
    *,
    tile: Shape,
    dims: int,
    halo: Shape,
    multiple: Shape,
    scale: Scale = SAME,
    alike: Alike = (0, 1, 1),
) -> View:
    """Return what a model reads of a whole tile under a perturbation.

    Parameters
    ----------
    perturbation
        None, and any that moves no voxel, gives the frame of the unperturbed pass.
    tile, halo, multiple, scale
        As of `cte_dask.tiles.frame_of`.
    dims
        Spatial axes of the model, 2 or 3.
    alike
        Which axes have voxels of equal length; only those may be exchanged by a rotation.

    Returns
    -------
    View
        For ``rotate`` a box whose exchangeable axes are equally long: y and x of a 2D model; of a
        3D model those along which the tile is equally long too.
    """
    kind = perturbation.kind if perturbation is not None else ""
    if kind == "zoom" and perturbation is not None:
        strength = perturbation.strength
        factor = (strength if dims == 3 else 1.0, strength, strength)
        frame = _magnified_frame(factor, tile, halo=halo, multiple=multiple, scale=scale)
        return View(*_box_of(frame, factor), frame, tile, dims, (), factor)
    groups = _groups(tile, dims, alike) if kind == "rotate" else ()
    frame = frame_of(
        _over(groups, tile, max),
        halo=_over(groups, halo, max),
        multiple=_over(groups, multiple, math.lcm),
        scale=scale,
    )
    return View(frame.before, frame.shape, frame, tile, dims, groups)


def _groups(tile: Shape, dims: int, alike: Alike) -> tuple[tuple[int, ...], ...]:
    """Return the groups of two or more axes that may be exchanged."""
    axes = (0, 1, 2)[-dims:]

    def kind(axis: int) -> tuple[int, int]:
        return alike[axis], tile[axis] if dims == 3 else 0

    grouped = (tuple(g) for _, g in groupby(sorted(axes, key=kind), key=kind))
    return tuple(g for g in grouped if len(g) > 1)


def _over(groups: tuple[tuple[int, ...], ...], values: Shape, how: object) -> Shape:
    """Replace values along the axes of each group by one of them all."""
    z, y, x = values
    result = [z, y, x]
    for group in groups:
        value = how(*(values[axis] for axis in group))  # type: ignore[operator]
        for axis in group:
            result[axis] = value
    return result[0], result[1], result[2]


def _magnified_frame(
    factor: Scale, tile: Shape, *, halo: Shape, multiple: Shape, scale: Scale
) -> Frame:
    """Return the frame of the magnified tile, in voxels of the magnified grid."""
    z, y, x = (math.ceil(t * f) for t, f in zip(tile, factor, strict=True))
    # below 1 the first voxel's centre lies before the magnified tile: one more voxel of context
    c, b, a = (h + (f < 1) for h, f in zip(halo, factor, strict=True))
    return frame_of((z, y, x), halo=(c, b, a), multiple=multiple, scale=scale)


def _box_of(frame: Frame, factor: Scale) -> tuple[Shape, Shape]:
    """Return the voxels of the target that a magnified frame is interpolated from."""
    ends = []
    for before, after, f in zip(frame.before, frame.after, factor, strict=True):
        first = math.floor((0.5 - before) / f - 0.5)
        last = math.floor((after - 0.5) / f - 0.5) + 1  # the right neighbour of the last sample
        ends.append((-first, last - first + 1))
    (z, y, x) = ends
    return (z[0], y[0], x[0]), (z[1], y[1], x[1])
