"""Perturbations: what is done to a forward pass to see how consistent its prediction stays.

A perturbation is a kind, mostly a strength and sometimes a mode, ``kind[:strength[:mode]]``, such
as ``dropout:0.2``, ``gaussian:0.1`` or ``rotate``. Its kind is one object that says everything of
it (`cte_dask.perturb.kinds`): what it accepts, its usual strengths, whether it is random, what it
reads of a tile and what it applies. Input perturbations change the image's values
(`perturb.values`) or move its voxels (`perturb.geometry`), feature perturbations scale the
network's feature maps (`perturb.dropout`). Listing and parsing them imports neither torch nor
Numba.

A perturbation of your own is named by where it is defined, ``your_package.module:Thing:0.3``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cte_dask.perturb import philox
from cte_dask.perturb.kinds import (
    FeaturePerturbation,
    InputPerturbation,
    PerturbationKind,
    kind_of_function,
)
from cte_dask.registry import Registry

if TYPE_CHECKING:
    from cte_dask.arrays import Array
    from cte_dask.perturb.kinds import DrawnTiles, Warp
    from cte_dask.perturb.philox import Key
    from cte_dask.perturb.views import TileContext, View
    from cte_dask.tiles import Tile

__all__ = [
    "PERTURBATIONS",
    "Draw",
    "Perturbation",
    "PerturbationKind",
    "draws_of",
    "perturbation_kind",
    "usual_strengths",
]

PERTURBATIONS = Registry(
    "perturbation",
    {
        "dropout": "cte_dask.perturb.dropout:Dropout",
        "gaussian": "cte_dask.perturb.values:Gaussian",
        "brightness": "cte_dask.perturb.values:Brightness",
        "contrast": "cte_dask.perturb.values:Contrast",
        "gamma": "cte_dask.perturb.values:Gamma",
        "zoom": "cte_dask.perturb.geometry:Zoom",
        "rotate": "cte_dask.perturb.geometry:Rotate",
        "mirror": "cte_dask.perturb.geometry:Mirror",
    },
)
"""Name of each kind of perturbation and where it is defined, as ``"module:attribute"``."""


def perturbation_kind(name: str) -> PerturbationKind:
    """Return a kind by its name, or from outside as ``"your_package.module:Thing"``.

    Parameters
    ----------
    name
        A key of `PERTURBATIONS`, or where a class derived from one of `cte_dask.perturb.kinds` is
        defined; a plain function will do that has an attribute ``space``
        (`cte_dask.perturb.kinds.kind_of_function`).

    Returns
    -------
    PerturbationKind
        The kind, at any strength.

    Raises
    ------
    ValueError
        If there is no such kind.

    Examples
    --------
    >>> perturbation_kind("contrast").accepted, perturbation_kind("contrast").random
    ('a factor >= 0', False)
    """
    thing = PERTURBATIONS.load(name)
    if isinstance(thing, type) and issubclass(thing, PerturbationKind):
        return thing()
    return thing if isinstance(thing, PerturbationKind) else kind_of_function(thing, name)


def usual_strengths(*, calibrated: bool = False) -> str:
    """Return one sentence of the kinds listed, their strengths and the usual range of these.

    Parameters
    ----------
    calibrated
        Whether to tell only those for which a calibration knows strengths to try.

    Examples
    --------
    >>> usual_strengths(calibrated=True).split("; ")[-1]
    'gamma (exponent, 1.1-2.5)'
    """
    kinds = {name: perturbation_kind(name) for name in PERTURBATIONS}
    phrases = [_phrase(name, kind) for name, kind in kinds.items() if kind.strengths]
    if not calibrated:
        phrases += [_phrase(name, kind) for name, kind in kinds.items() if kind.typical]
        bare = [n for n, kind in kinds.items() if not kind.has_strength]
        phrases.append(f"{' and '.join(bare)} (no strength)")
    return "; ".join(phrases)


def _phrase(name: str, kind: PerturbationKind) -> str:
    low, high = kind.typical or (min(kind.strengths), max(kind.strengths))
    note = f"; {kind.note}" if kind.note else ""
    return f"{name} ({kind.meaning}, {low:g}-{high:g}{note})"


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One perturbation at one strength.

    Parameters
    ----------
    kind
        A key of `PERTURBATIONS` or ``"your_package.module:Thing"``.
    strength
        Dropout rate p_d in [0, 1); standard deviation or offset on the canonical scale for
        gaussian (>= 0) and brightness; factor (>= 0) for contrast; exponent (> 0) for gamma;
        magnification in [0.5, 2] for zoom. Left out (0) for rotate and mirror.
    mode
        ``"bernoulli"`` (default) or ``"fixed"`` for dropout; None for all others.

    Raises
    ------
    ValueError
        If the kind is unknown or the strength or mode is not one of the kind's.

    Examples
    --------
    >>> Perturbation.parse("dropout:0.20")
    Perturbation(kind='dropout', strength=0.2, mode='bernoulli')
    >>> Perturbation.parse("dropout:0.2:fixed").name
    'dropout:0.2:fixed'
    >>> Perturbation("rotate").name
    'rotate'
    """

    kind: str
    strength: float = math.nan
    mode: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", self._checked_strength())
        object.__setattr__(self, "mode", self._checked_mode())

    def _checked_strength(self) -> float:
        kind, strength = self.load(), self.strength
        value = 0.0 if not kind.has_strength and math.isnan(strength) else float(strength)
        if not (math.isfinite(value) and kind.accepts(value)):
            accepted = kind.accepted if kind.has_strength else "left out"
            raise ValueError(f"strength {strength!r} of {self.kind!r} must be {accepted}")
        return value + 0.0  # -0.0 and 0.0 are one strength and have one name

    def _checked_mode(self) -> str | None:
        modes = self.load().modes
        if self.mode is None:
            return modes[0] if modes else None
        if self.mode not in modes:
            accepted = f"accepted are {', '.join(modes)}" if modes else "it has none"
            raise ValueError(f"unknown mode {self.mode!r} of {self.kind!r}: {accepted}")
        return self.mode

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """Read ``kind:strength[:mode]``, or the kind alone where it has no strength.

        Parameters
        ----------
        text
            For example ``"dropout:0.2"``, ``"dropout:0.2:fixed"``, ``"rotate"``.

        Returns
        -------
        Perturbation
            ``Perturbation.parse(p.name) == p`` for every perturbation ``p``.

        Raises
        ------
        ValueError
            If the text has another form, or the perturbation is not accepted.
        """
        kind, rest = PERTURBATIONS.split(text.strip())
        if not perturbation_kind(kind).has_strength:
            if rest:
                raise ValueError(f"perturbation {text!r} must read {kind!r}: it has no strength")
            return cls(kind)
        if len(rest) not in (1, 2):
            raise ValueError(
                f"perturbation {text!r} must read kind:strength or kind:strength:mode, "
                "such as dropout:0.2 or dropout:0.2:fixed"
            )
        return cls(kind, _number(text, rest[0]), rest[1] if len(rest) == 2 else None)

    @property
    def name(self) -> str:
        """Canonical text: equal perturbations have equal names; the default mode is not shown."""
        kind = self.load()
        if not kind.has_strength:
            return self.kind
        suffix = f":{self.mode}" if kind.modes and self.mode != kind.modes[0] else ""
        return f"{self.kind}:{_digits(self.strength)}{suffix}"

    @property
    def space(self) -> str:
        """What is perturbed: ``"input"`` or ``"feature"``."""
        return self.load().space

    def load(self) -> PerturbationKind:
        """Return the kind, which says all that is true at any strength."""
        return perturbation_kind(self.kind)

    def view(self, context: TileContext) -> View:
        """Return what a model reads and sees of a tile.

        Parameters
        ----------
        context
            The tile, and what the model needs around it.
        """
        return self.load().view(context, self.strength)

    def warp(self, view: View, keys: Sequence[Key]) -> Warp | None:
        """Return how the voxels of some tiles are moved, None if they stay where they are.

        Parameters
        ----------
        view
            What `view` returned.
        keys
            Philox key of each tile.
        """
        return self.load().warp(view, self.strength, keys)

    def images(self, frames: Array, drawn: DrawnTiles) -> tuple[Array, Warp | None]:
        """Perturb the images of some tiles.

        Parameters
        ----------
        frames, drawn
            Frames and tiles, as `cte_dask.perturb.kinds.InputPerturbation.images` takes them.

        Returns
        -------
        tuple
            The frames that the network sees, and how predictions on them come back.

        Raises
        ------
        TypeError
            If it perturbs no image.
        """
        kind = self.load()
        if not isinstance(kind, InputPerturbation):
            raise TypeError(f"{self.name!r} perturbs no image: its space is {kind.space!r}")
        return kind.images(frames, self.strength, drawn)

    def multipliers(self, channels: int, key: Key) -> Array:
        """Draw what the feature maps of one tile and layer are multiplied with.

        Parameters
        ----------
        channels
            Number of feature maps C.
        key
            Philox key of the tile and layer.

        Returns
        -------
        ndarray of float32, shape (C,)

        Raises
        ------
        TypeError
            If it perturbs no feature maps.
        """
        kind = self.load()
        if not isinstance(kind, FeaturePerturbation):
            raise TypeError(f"{self.name!r} perturbs no feature maps: its space is {kind.space!r}")
        return kind.multipliers(channels, self.strength, mode=self.mode, key=key)


@dataclass(frozen=True, slots=True)
class Draw:
    """One perturbed run: a perturbation, and which of its repeats.

    Parameters
    ----------
    perturbation
        The perturbation, drawn anew in every repeat where it is random.
    repeat
        Number of the repeat, from 0.
    """

    perturbation: Perturbation
    repeat: int

    def key(self, seed: int, tile: Tile, layer: int = 0) -> Key:
        """Return the Philox key of this run's draw for a tile.

        Parameters
        ----------
        seed
            The run's seed.
        tile
            The tile; the same key for every model.
        layer
            Number of the layer that is perturbed, or of the input's channel where each draws its
            own; 0 for an image.
        """
        return philox.key(seed, self.perturbation.name, self.repeat, tile.index, layer)


def draws_of(perturbations: Iterable[Perturbation], repeats: int) -> tuple[Draw, ...]:
    """Return every perturbed run: the repeats of a perturbation stand together.

    Parameters
    ----------
    perturbations
        In the order of the run.
    repeats
        How often each is drawn, at least once.

    Examples
    --------
    >>> [(d.perturbation.name, d.repeat) for d in draws_of([Perturbation("rotate")], 2)]
    [('rotate', 0), ('rotate', 1)]
    """
    return tuple(Draw(p, r) for p in perturbations for r in range(repeats))


def _number(text: str, strength: str) -> float:
    try:
        return float(strength)
    except ValueError:
        raise ValueError(
            f"strength {strength!r} of perturbation {text!r} is not a number"
        ) from None


def _digits(strength: float) -> str:
    """Shortest text that reads back as the same number."""
    short = f"{strength:g}"
    return short if float(short) == strength else repr(strength)
