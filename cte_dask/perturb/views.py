"""Views: what a model reads and sees of a tile, also where a perturbation moves its voxels.

Integer geometry, no I/O, so that a block's margins are known before anything is loaded. The frame
of the unperturbed pass never changes: a perturbation that needs another box of the target reads its
own, and its halo covers the whole tile as the network sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cte_dask.tiles import SAME, Frame, Scale, Shape, frame_of

if TYPE_CHECKING:
    from cte_dask.perturb import Perturbation

__all__ = ["Alike", "TileContext", "View", "plain_view", "view_of"]

Alike = tuple[int, int, int]
"""Axes (z, y, x) with equal numbers have voxels of equal length, in the target and the network."""


@dataclass(frozen=True, slots=True)
class TileContext:
    """A whole tile, and what a model needs around it.

    Parameters
    ----------
    tile
        Extent of a whole tile, voxels of the target (z, y, x).
    dims
        Spatial axes of the model, 2 or 3; planes of a 2D model keep their order.
    halo, multiple, scale
        Margin, divisor and magnification, as `cte_dask.tiles.frame_of` takes them.
    alike
        Which axes have voxels of equal length; only those may be exchanged by a rotation.
    """

    tile: Shape
    dims: int
    halo: Shape
    multiple: Shape
    scale: Scale = SAME
    alike: Alike = (0, 1, 1)


@dataclass(frozen=True, slots=True)
class View:
    """The box read around a tile, and the frame that it becomes before the network.

    Parameters
    ----------
    before, shape
        Context before the tile's start and extent of the box, voxels of the target (z, y, x).
    frame
        The tile's frame on the grid that the network sees; `frame.before` and `frame.shape` count
        its voxels.
    context
        The tile and what the model needs around it.
    """

    before: Shape
    shape: Shape
    frame: Frame
    context: TileContext

    @property
    def box(self) -> tuple[Shape, Shape]:
        """Where the box lies: `before` and `shape`."""
        return self.before, self.shape

    @property
    def tile(self) -> Shape:
        """Extent of a whole tile, voxels of the target (z, y, x)."""
        return self.context.tile

    @property
    def dims(self) -> int:
        """Spatial axes of the model, 2 or 3."""
        return self.context.dims


def plain_view(context: TileContext) -> View:
    """Return what is read and seen where no voxel is moved: the frame of the unperturbed pass.

    Parameters
    ----------
    context
        The tile, and what the model needs around it.
    """
    frame = frame_of(
        context.tile, halo=context.halo, multiple=context.multiple, scale=context.scale
    )
    return View(frame.before, frame.shape, frame, context)


def view_of(perturbation: Perturbation | None, context: TileContext) -> View:
    """Return what a model reads of a whole tile under a perturbation, or none."""
    return plain_view(context) if perturbation is None else perturbation.view(context)
