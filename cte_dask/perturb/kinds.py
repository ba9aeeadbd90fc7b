"""What a kind of perturbation is: one object that says what it takes and what it does to a pass.

Three families, by what they perturb: the values of the image, its geometry, the network's feature
maps. A new kind derives from one of them in a file of its own and is listed in
`cte_dask.perturb.PERTURBATIONS`; whoever must know something of a perturbation (options, grids of
strengths, block margins, the predictor) asks the object. Importing this needs NumPy alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from cte_dask.arrays import Array, from_torch, namespace, to_torch
from cte_dask.perturb.canonical import add_increment
from cte_dask.perturb.philox import Key
from cte_dask.perturb.views import TileContext, View, plain_view
from cte_dask.tiles import Shape, Tile

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Core",
    "DrawnTiles",
    "FeaturePerturbation",
    "GeometricPerturbation",
    "InputPerturbation",
    "PerturbationKind",
    "ValuePerturbation",
    "Warp",
    "kind_of_function",
]

Core = tuple[slice, ...]
"""Slices of the scored tile within its frame."""


@dataclass(frozen=True, slots=True)
class DrawnTiles:
    """Some tiles, and all that their perturbed images may depend on.

    Parameters
    ----------
    view
        What the model reads and sees of each.
    tiles
        The tiles.
    keys
        Philox key of each tile; the same for every model.
    low, high
        The target's low and high percentiles, raw units: 0 and 1 of the canonical image.
    """

    view: View
    tiles: Sequence[Tile]
    keys: Sequence[Key]
    low: float
    high: float


class Warp(Protocol):
    """How the voxels of a group of tiles are moved: there, and back.

    One with an attribute ``reads``, the slices (of the spatial axes) of what the network gives that
    `back` reads for whichever tile, may be given that alone: then `back` is told ``cut=True``.
    """

    def image(self, frames: Tensor) -> Tensor:
        """Return the frames that the network sees.

        Parameters
        ----------
        frames
            The boxes read, (T, z, y, x).

        Returns
        -------
        Tensor
            (T, z, y, x) on the grid of the view's frame.
        """
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


class PerturbationKind:
    """One kind of perturbation, at any strength.

    Attributes
    ----------
    space : str
        What is perturbed: ``"input"`` or ``"feature"``.
    accepted : str
        What `accepts` takes, for messages: ``"a standard deviation >= 0"``.
    has_strength : bool
        Whether a strength is given with it; False as for a rotation.
    modes : tuple of str
        Ways to do it, the default one first; empty if there is one alone.
    random : bool
        Whether each repeat draws anew; of what is not random one run says all.
    by_channel : bool
        Whether each channel of an image draws its own, as noise does; else all are treated alike.
    meaning : str
        What the strength is, for help texts: ``"standard deviation of noise"``.
    strengths : tuple of float
        Usual strengths from weak to strong, which a calibration tries; empty if none are known.
    typical : tuple of float or None
        Least and greatest usual strength where there are no `strengths`.
    note : str
        What help texts should add, such as ``"grey boxes only"``.
    """

    space: str
    accepted: str = "a finite number"
    has_strength: bool = True
    modes: tuple[str, ...] = ()
    random: bool = True
    by_channel: bool = False
    meaning: str = ""
    strengths: tuple[float, ...] = ()
    typical: tuple[float, float] | None = None
    note: str = ""

    def accepts(self, strength: float) -> bool:
        """Whether it can be done at a strength.

        Parameters
        ----------
        strength
            A finite number.

        Returns
        -------
        bool
            It may raise ValueError with the reason instead.
        """
        return self.has_strength or strength == 0

    def view(self, context: TileContext, strength: float) -> View:
        """Return what a model reads and sees of a tile; by default as in the unperturbed pass.

        Parameters
        ----------
        context
            The tile, and what the model needs around it.
        strength
            One that is accepted.
        """
        return plain_view(context)

    def warp(self, view: View, strength: float, keys: Sequence[Key]) -> Warp | None:
        """Return how the voxels of some tiles are moved, None if they stay where they are.

        Parameters
        ----------
        view
            What `view` returned.
        strength
            One that is accepted.
        keys
            Philox key of each tile; the same for every model.
        """
        return None


class InputPerturbation(PerturbationKind, ABC):
    """A kind that gives the network another image; any model can be perturbed so."""

    space = "input"

    @abstractmethod
    def images(
        self, frames: Array, strength: float, drawn: DrawnTiles
    ) -> tuple[Array, Warp | None]:
        """Perturb the images of some tiles.

        Parameters
        ----------
        frames
            Raw intensities of the boxes that the view reads, float32 (T, z, y, x).
        strength
            One that is accepted.
        drawn
            The T tiles.

        Returns
        -------
        tuple
            The frames that the network sees, raw intensities on the grid of `view.frame`, and how
            predictions on them come back (None: they lie where they should).
        """


class ValuePerturbation(InputPerturbation):
    """A kind that changes the image's values, each voxel where it is."""

    @abstractmethod
    def increment(
        self, image: Array, strength: float, *, key: Key, start: Shape, core: Core
    ) -> Array:
        """Return what is added to a canonical image; zero at the neutral strength.

        Parameters
        ----------
        image
            A tile in its frame (z, y, x), float, scaled so that the target's low and high
            percentiles are 0 and 1; not clipped. NumPy or CuPy.
        strength
            θ.
        key
            Philox key; the same for every model.
        start
            First voxel of the frame relative to the tile's first voxel: negative inside a halo.
            Draws must depend on a voxel's coordinate relative to the tile, never on the frame.
        core
            Slices of the scored tile within the frame; statistics are taken there.

        Returns
        -------
        ndarray
            The result has the image's shape and dtype.
        """

    def images(
        self, frames: Array, strength: float, drawn: DrawnTiles
    ) -> tuple[Array, Warp | None]:
        """Add the increments; see `InputPerturbation.images`."""
        before, changed = drawn.view.before, []
        z, y, x = before
        for frame, tile, key in zip(frames, drawn.tiles, drawn.keys, strict=True):
            core = tuple(slice(b, b + t) for b, t in zip(before, tile.shape, strict=True))
            added = partial(
                self.increment, strength=strength, key=key, start=(-z, -y, -x), core=core
            )
            changed.append(add_increment(frame, added, low=drawn.low, high=drawn.high))
        return namespace(frames).stack(changed), None


class GeometricPerturbation(InputPerturbation):
    """A kind that moves the image's voxels, not their values; predictions are mapped back."""

    @abstractmethod
    def warp(self, view: View, strength: float, keys: Sequence[Key]) -> Warp:
        """Return how the voxels of some tiles are moved; see `PerturbationKind.warp`."""

    def images(
        self, frames: Array, strength: float, drawn: DrawnTiles
    ) -> tuple[Array, Warp | None]:
        """Move the voxels; see `InputPerturbation.images`."""
        warp = self.warp(drawn.view, strength, drawn.keys)
        device = "cpu" if namespace(frames).__name__ == "numpy" else "cuda"
        return from_torch(warp.image(to_torch(frames, device)).contiguous()), warp


class FeaturePerturbation(PerturbationKind, ABC):
    """A kind that scales feature maps of the network; models whose inside is reached, alone."""

    space = "feature"

    @abstractmethod
    def multipliers(self, channels: int, strength: float, *, mode: str | None, key: Key) -> Array:
        """Draw what the feature maps of one tile and layer are multiplied with.

        Parameters
        ----------
        channels
            Number of feature maps C.
        strength
            One that is accepted.
        mode
            One of `modes`; None if there are none.
        key
            Philox key of the tile and layer.

        Returns
        -------
        ndarray of float32, shape (C,)
            NumPy's.
        """


class _Function(PerturbationKind):
    """A plain function, whose attribute ``check`` raises where it has limits."""

    accepted = "what its check accepts"

    def __init__(self, function: Any) -> None:
        self.function = function

    def accepts(self, strength: float) -> bool:
        check = getattr(self.function, "check", None)
        return check is None or check(strength) is None


class _ValueFunction(_Function, ValuePerturbation):
    def increment(
        self, image: Array, strength: float, *, key: Key, start: Shape, core: Core
    ) -> Array:
        added: Array = self.function(image, strength, key=key, start=start, core=core)
        return added


class _FeatureFunction(_Function, FeaturePerturbation):
    def multipliers(self, channels: int, strength: float, *, mode: str | None, key: Key) -> Array:
        drawn: Array = self.function(channels, strength, mode=mode, key=key)
        return drawn


def kind_of_function(function: Any, name: str) -> PerturbationKind:
    """Return the kind that a plain function is: the short way to write one of your own.

    Parameters
    ----------
    function
        With an attribute ``space``: ``"input"`` of what returns an increment, ``"feature"`` of
        what returns multipliers; and, if it has limits, an attribute ``check(strength)`` that
        raises ValueError.
    name
        Where it comes from, for the message.

    Raises
    ------
    ValueError
        If it has no such attribute.
    """
    space = getattr(function, "space", None)
    if space == "input":
        return _ValueFunction(function)
    if space == "feature":
        return _FeatureFunction(function)
    raise ValueError(
        f"{name!r} must be a class of cte_dask.perturb.kinds, or a function with an attribute "
        f"space, 'input' or 'feature': {space!r}"
    )
