"""Voxel sizes in nanometre, and the choice of the pyramid level nearest to a model's."""

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
    # Unicode has two micro signs and two angstrom signs: NFKC leaves one of each
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
        lengths = [length for length in self.lengths if length is not None]
        if not lengths or not all(math.isfinite(v) and v > 0 for v in lengths):
            raise ValueError(f"voxel size {self.lengths} (z, y, x) must be positive nanometres")

    @property
    def lengths(self) -> tuple[float | None, float | None, float | None]:
        """The three edge lengths in nanometre (z, y, x)."""
        return self.z, self.y, self.x

    def __str__(self) -> str:
        return ",".join("?" if v is None else f"{v:.6g}" for v in self.lengths) + " nm"

    def scaled(self, factors: Sequence[float]) -> VoxelSize:
        """Return the size of voxels that are larger by some factors.

        Parameters
        ----------
        factors
            Factors along z, y and x.
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
        match = _SIZE.fullmatch(text)
        unit = nanometres(match[2]) if match else None
        if match is None or unit is None:
            raise ValueError(
                f"voxel size {text!r} has no known unit: write for example '9.2,9.2,9.2 nm' "
                "(z,y,x; nm, um, mm, angstrom, …)"
            )
        lengths = [_length(number, text) for number in match[1].split(",")]
        return cls._from_lengths(lengths, unit, text)

    @classmethod
    def _from_lengths(cls, lengths: list[float | None], unit: float, text: str) -> VoxelSize:
        # rounding removes what the factor adds in the last digit: 0.28 µm is 280 nm
        in_nm = [None if v is None else float(f"{v * unit:.12g}") for v in lengths]
        if len(in_nm) == 1:
            return cls(in_nm[0], in_nm[0], in_nm[0])
        if len(in_nm) == 2:
            return cls(None, *in_nm)
        if len(in_nm) != 3:
            raise ValueError(f"voxel size {text!r}: want one, two (y,x) or three (z,y,x) lengths")
        return cls(*in_nm)

    @classmethod
    def of(cls, value: VoxelSizeLike) -> VoxelSize:
        """Return a voxel size from any of the forms that options and functions accept.

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


def _length(number: str, text: str) -> float | None:
    if number.strip() == "?":
        return None
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"voxel size {text!r}: {number.strip()!r} is not a length") from None


def mismatch(size: VoxelSize, reference: VoxelSize) -> tuple[float, float] | None:
    """Return how far two voxel sizes are apart, as |log ratio|, in the plane and along z.

    Parameters
    ----------
    size, reference
        The voxel sizes; only axes that both know count.

    Returns
    -------
    tuple of float or None
        Mean of |log(size / reference)| over y and x, and |log(size / reference)| along z, each 0
        where one of them does not know; None if no axis is known to both.
    """
    pairs = zip(size.lengths, reference.lengths, strict=True)
    z, y, x = [abs(math.log(a / b)) if a and b else None for a, b in pairs]
    plane = [v for v in (y, x) if v is not None]
    if z is None and not plane:
        return None
    return (sum(plane) / len(plane) if plane else 0.0), (z or 0.0)


def nearest_level(sizes: Sequence[VoxelSize | None], reference: VoxelSize) -> int | None:
    """Return the pyramid level whose voxels are nearest to a reference size.

    The plane decides; of levels alike in the plane z decides, and then the finer level wins.

    Parameters
    ----------
    sizes
        Voxel size of each level, None where not known.
    reference
        For example the voxel size a model was trained at.

    Returns
    -------
    int or None
        The level; None if no level shares a known axis with ``reference``.

    Examples
    --------
    >>> sizes = [VoxelSize(50, 4 * f, 4 * f) for f in (1, 2, 4)]
    >>> nearest_level(sizes, VoxelSize(None, 9.2, 9.2))
    1
    """
    # rounded, so that the last bits of a logarithm decide no tie
    distances = [
        (round(distance[0], 9), round(distance[1], 9), level)
        for level, size in enumerate(sizes)
        if size is not None and (distance := mismatch(size, reference)) is not None
    ]
    return min(distances)[2] if distances else None
