"""Perturbations: what is done to a forward pass to see how consistent its prediction stays.

A perturbation is a kind, mostly a strength and sometimes a mode, ``kind[:strength[:mode]]``, such
as ``dropout:0.2``, ``gaussian:0.1`` or ``rotate``. Input perturbations change the image's values
(`perturb.input`) or turn and magnify it (`perturb.geometric`), feature perturbations the network's
feature maps (`perturb.feature`). Listing and parsing them imports neither torch nor Numba.

A perturbation of your own is named by its place, ``your_package.module:thing:0.3``, and follows one
of two protocols. Either is a function with an attribute ``space`` and, if it has limits, an
attribute ``check(strength)`` that raises ValueError:

``space = "input"``
    ``thing(canonical, strength, *, key, start, core) -> increment``, see `InputPerturbation`.
``space = "feature"``
    ``thing(channels, strength, *, mode, key) -> multipliers`` of the feature maps, float32 (C,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cte_dask.arrays import Array
from cte_dask.registry import Registry
from cte_dask.tiles import Shape

__all__ = ["GEOMETRIC", "PERTURBATIONS", "InputPerturbation", "Perturbation"]

PERTURBATIONS = Registry(
    "perturbation",
    {
        "dropout": "cte_dask.perturb.dropout:channel_mask",
        "gaussian": "cte_dask.perturb.input:gaussian",
        "brightness": "cte_dask.perturb.input:brightness",
        "contrast": "cte_dask.perturb.input:contrast",
        "gamma": "cte_dask.perturb.input:gamma",
    },
)
"""Name of each perturbation of values and where it is defined, as ``"module:attribute"``."""

GEOMETRIC = Registry(
    "perturbation",
    {
        "rotate": "cte_dask.perturb.geometric:rotate",
        "mirror": "cte_dask.perturb.geometric:mirror",
        "zoom": "cte_dask.perturb.geometric:zoom",
    },
)
"""Name of each perturbation of geometry and where it is defined; predictions are mapped back."""

_ALL = Registry("perturbation", {**PERTURBATIONS, **GEOMETRIC})


class InputPerturbation(Protocol):
    """What an input perturbation is: the increment it adds to a canonical image."""

    def __call__(
        self,
        canonical: Array,
        strength: float,
        *,
        key: tuple[int, int],
        start: Shape,
        core: tuple[slice, ...],
    ) -> Array:
        """Return the increment, of the image's shape and dtype.

        Parameters
        ----------
        canonical
            A tile in its frame (z, y, x), float, scaled so that the target's low and high
            percentiles are 0 and 1; not clipped.
        strength
            θ.
        key
            Philox key; the same for every model.
        start
            First voxel of the frame relative to the tile's first voxel: negative inside a halo.
            Draws must depend on a voxel's coordinate relative to the tile, never on the frame.
        core
            Slices of the scored tile within the frame; statistics are taken there.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Rule:
    space: str
    accepts: Callable[[float], bool]
    accepted: str
    modes: tuple[str, ...] = ()
    strengthless: bool = False


_RULES: dict[str, _Rule] = {
    "dropout": _Rule("feature", lambda p: 0 <= p < 1, "a rate 0 <= p < 1", ("bernoulli", "fixed")),
    "gaussian": _Rule("input", lambda s: s >= 0, "a standard deviation >= 0"),
    "brightness": _Rule("input", lambda s: True, "a finite offset"),
    "contrast": _Rule("input", lambda s: s >= 0, "a factor >= 0"),
    "gamma": _Rule("input", lambda s: s > 0, "an exponent > 0"),
    "none": _Rule("none", lambda s: s == 0, "left out", strengthless=True),
    "rotate": _Rule("input", lambda s: s == 0, "left out", strengthless=True),
    "mirror": _Rule("input", lambda s: s == 0, "left out", strengthless=True),
    "zoom": _Rule("input", lambda s: 0.5 <= s <= 2, "a factor from 0.5 to 2"),
}


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One perturbation at one strength.

    Parameters
    ----------
    kind
        A key of `PERTURBATIONS` or `GEOMETRIC`, ``"your_package.module:thing"``, or ``"none"``:
        the unperturbed prediction, which metrics of a whole bank are about.
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
        rule = _rule(self.kind)
        object.__setattr__(self, "strength", _checked_strength(self.kind, self.strength, rule))
        object.__setattr__(self, "mode", _checked_mode(self.kind, self.mode, rule))

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
        kind, rest = _ALL.split(text.strip())
        if _rule(kind).strengthless:
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
        if _rule(self.kind).strengthless:
            return self.kind
        modes = _rule(self.kind).modes
        suffix = f":{self.mode}" if modes and self.mode != modes[0] else ""
        return f"{self.kind}:{_digits(self.strength)}{suffix}"

    @property
    def space(self) -> str:
        """What is perturbed: ``"input"``, ``"feature"``, or ``"none"`` for the reference itself."""
        return _rule(self.kind).space

    @property
    def geometric(self) -> bool:
        """Whether the image is turned or magnified, so that predictions are mapped back."""
        return self.kind in GEOMETRIC

    def load(self) -> Any:
        """Import and return the function behind this kind.

        Returns
        -------
        callable
            An `InputPerturbation`, a drawer of feature-map multipliers, or a maker of
            `cte_dask.perturb.geometric.Warp`.
        """
        return _ALL.load(self.kind)


def _rule(kind: str) -> _Rule:
    """Limits of a kind, known for ours and asked of any other."""
    if kind in _RULES:
        return _RULES[kind]
    thing = _ALL.load(kind)
    space = getattr(thing, "space", None)
    if space not in ("input", "feature"):
        raise ValueError(f"{kind!r} must have an attribute space, 'input' or 'feature': {space!r}")
    check = getattr(thing, "check", lambda strength: None)
    return _Rule(space, lambda s: check(s) is None, "what its check accepts")


def _checked_strength(kind: str, strength: float, rule: _Rule) -> float:
    value = 0.0 if rule.strengthless and math.isnan(strength) else float(strength)
    if not (math.isfinite(value) and rule.accepts(value)):
        raise ValueError(f"strength {strength!r} of {kind!r} must be {rule.accepted}")
    return value + 0.0  # -0.0 and 0.0 are one strength and have one name


def _checked_mode(kind: str, mode: str | None, rule: _Rule) -> str | None:
    if mode is None:
        return rule.modes[0] if rule.modes else None
    if mode not in rule.modes:
        accepted = f"accepted are {', '.join(rule.modes)}" if rule.modes else "it has none"
        raise ValueError(f"unknown mode {mode!r} of {kind!r}: {accepted}")
    return mode


def _number(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise ValueError(f"strength {part!r} of perturbation {text!r} is not a number") from None


def _digits(strength: float) -> str:
    """Shortest text that reads back as the same number."""
    short = f"{strength:g}"
    return short if float(short) == strength else repr(strength)
