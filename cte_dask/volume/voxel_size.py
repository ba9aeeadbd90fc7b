"""Voxel sizes in nanometre, and the pyramid level that suits a model."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NANOMETRES", "VoxelSize", "VoxelSizeLike", "mismatch", "nanometres", "nearest_level"]

_PREFIXES = {"pico": -3, "nano": 0, "micro": 3, "milli": 6, "centi": 7, "deci": 8, "": 9}

NANOMETRES: dict[str, float] = {
    f"{name}met{end}": 10.0**power for name, power in _PREFIXES.items() for end in ("er", "re")
}
NANOMETRES |= {"pm": 1e-3, "nm": 1.0, "um": 1e3, "μm": 1e3, "micron": 1e3, "mm": 1e6}
NANOMETRES |= {"cm": 1e7, "m": 1e9, "angstrom": 0.1, "ångström": 0.1, "Å": 0.1}
"""Length of each known unit in nanometre: NGFF's names and the usual abbreviations."""

_SIZE = re.compile(r"\s*([-+.,?\d\seE]*?)\s*([^\W\d]+)\s*")


def nanometres(unit: object) -> float | None:
    """Return the length of a unit in nanometre, None if the unit is not known.

    Examples
    --------
    >>> nanometres("micrometer"), nanometres("µm"), nanometres("furlong")
    (1000.0, 1000.0, None)
    """
    if not isinstance(unit, str):
        return None
    # NFKC: one micro sign and one angstrom sign out of the two that Unicode has of each
    word = unicodedata.normalize("NFKC", unit.strip())
    if len(word) <= 2:  # abbreviations differ by case (Mm, mm), names do not
        return NANOMETRES.get(word)
    word = word.lower()
    return NANOMETRES.get(word, NANOMETRES.get(word.removesuffix("s")))


@dataclass(frozen=True, slots=True)
class VoxelSize:
    """Edge lengths of a voxel in nanometre; None along an axis where it is not known.

    Parameters
    ----------
    z, y, x
        Edge lengths in nanometre.

    Raises
    ------
    ValueError
        If a length is not positive and finite, or no length is known.
    """

    z: float | None
    y: float | None
    x: float | None

    def __post_init__(self) -> None:
        known = [length for length in self.lengths if length is not None]
        if not known or not all(math.isfinite(v) and v > 0 for v in known):
            raise ValueError(f"voxel size {self.lengths} (z, y, x) must be positive nanometres")

    @property
    def lengths(self) -> tuple[float | None, float | None, float | None]:
        """The three edge lengths in nanometre (z, y, x)."""
        return self.z, self.y, self.x

    def __str__(self) -> str:
        return ",".join("?" if v is None else f"{v:.6g}" for v in self.lengths) + " nm"

    def scaled(self, factors: Sequence[float]) -> VoxelSize:
        """Return the size of voxels that are larger.

        Parameters
        ----------
        factors
            How much larger along z, y and x.
        """
        pairs = zip(self.lengths, factors, strict=True)
        return VoxelSize(*(None if v is None else v * f for v, f in pairs))

    @classmethod
    def parse(cls, text: str) -> VoxelSize:
        """Read a voxel size with its unit, as the command line takes it.

        Parameters
        ----------
        text
            One (all axes), two (y, x) or three (z, y, x) lengths and a unit; ``?`` is unknown.

        Raises
        ------
        ValueError
            If the text is malformed or the unit is missing or not known.

        Examples
        --------
        >>> VoxelSize.parse("50,9.2,9.2 nm")
        VoxelSize(z=50.0, y=9.2, x=9.2)
        >>> VoxelSize.parse("0.25 µm")
        VoxelSize(z=250.0, y=250.0, x=250.0)
        """
        found = _SIZE.fullmatch(text)
        unit = nanometres(found[2]) if found else None
        if found is None or unit is None:
            raise ValueError(
                f"voxel size {text!r} has no known unit: write for example '9.2,9.2,9.2 nm' "
                "(z,y,x; nm, um, mm, angstrom, …)"
            )
        return cls._from_lengths([_length(part, text) for part in found[1].split(",")], unit, text)

    @classmethod
    def _from_lengths(cls, lengths: list[float | None], unit: float, text: str) -> VoxelSize:
        # rounding removes what the factor adds in the last digit: 0.28 µm is 280 nm
        known = [None if v is None else float(f"{v * unit:.12g}") for v in lengths]
        if len(known) == 1:
            return cls(known[0], known[0], known[0])
        if len(known) == 2:
            return cls(None, *known)
        if len(known) != 3:
            raise ValueError(f"voxel size {text!r}: want one, two (y,x) or three (z,y,x) lengths")
        return cls(*known)

    @classmethod
    def of(cls, value: VoxelSizeLike) -> VoxelSize:
        """Return a voxel size given in any of the forms that are taken.

        Parameters
        ----------
        value
            A voxel size, text with a unit, or nanometres ((z,) y, x).

        Raises
        ------
        TypeError
            If the value is none of these.
        ValueError
            If it is malformed.
        """
        if isinstance(value, VoxelSize):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        if not isinstance(value, Sequence):
            raise TypeError(
                f"voxel size {value!r}: want a VoxelSize, '9.2,9.2,9.2 nm' or 3 numbers"
            )
        if len(value) not in (2, 3):
            raise ValueError(f"voxel size {value!r}: want three lengths in nanometre (z, y, x)")
        return cls(*([None] * (3 - len(value))), *(None if v is None else float(v) for v in value))


VoxelSizeLike = VoxelSize | str | Sequence[float | None]


def _length(part: str, text: str) -> float | None:
    if part.strip() == "?":
        return None
    try:
        return float(part)
    except ValueError:
        raise ValueError(f"voxel size {text!r}: {part.strip()!r} is not a length") from None


def mismatch(size: VoxelSize, wanted: VoxelSize) -> tuple[float, float] | None:
    """Return how far two voxel sizes are apart, as |log ratio|, in the plane and along z.

    Parameters
    ----------
    size, wanted
        The voxel sizes; only axes that both know count.

    Returns
    -------
    tuple of float or None
        Mean of |log(size / wanted)| over y and x, and |log(size / wanted)| along z; 0 for a part
        that is not known, None if no axis is known to both.
    """
    pairs = zip(size.lengths, wanted.lengths, strict=True)
    z, *plane = [abs(math.log(a / b)) if a and b else None for a, b in pairs]
    known = [v for v in plane if v is not None]
    if z is None and not known:
        return None
    return (sum(known) / len(known) if known else 0.0), (z or 0.0)


def nearest_level(sizes: Sequence[VoxelSize | None], wanted: VoxelSize) -> int | None:
    """Return the pyramid level whose voxels are nearest to the wanted size.

    The plane decides first, z breaks ties, the finer level breaks what is left.

    Parameters
    ----------
    sizes
        Voxel size of each level, None where not known.
    wanted
        For example the voxel size a model was trained at.

    Returns
    -------
    int or None
        The level; None if no level shares a known axis with ``wanted``.

    Examples
    --------
    >>> sizes = [VoxelSize(50, 4 * f, 4 * f) for f in (1, 2, 4)]
    >>> nearest_level(sizes, VoxelSize(None, 9.2, 9.2))
    1
    """
    distances = [
        (round(found[0], 9), round(found[1], 9), level)
        for level, size in enumerate(sizes)
        if size is not None and (found := mismatch(size, wanted)) is not None
    ]
    return min(distances)[2] if distances else None
