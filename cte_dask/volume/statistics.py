"""Computes intensity statistics of a whole target, from a seeded sample of whole chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cte_dask.errors import VolumeError, VolumeReadError
from cte_dask.volume.sampling import Sample, draw_sample

if TYPE_CHECKING:
    from cte_dask.volume.volume import Volume

__all__ = ["IntensityStatistics", "chunks_missing", "intensity_statistics", "not_stored"]

_STRETCH = 2**20
_FEWEST_STEPS = 64
"""Steps of single precision between darkest and brightest, at least: fewer would show as bands."""
_LABELS_EQUAL = 0.9
"""Share of equal neighbours from which on voxels may be labels. Of 22 sets of microscopy images the
smoothest, JPEG of brightfield, has 0.72; 21 of their 22 label sets have 0.96 or more."""
_FEWEST_PAIRS = 256
_ASKED_FOR = 1024
"""Chunks that are looked for one by one: to know more is not worth so many requests."""


@dataclass(frozen=True)
class IntensityStatistics:
    """Intensities of a target, without voxels that are NaN or infinite.

    Parameters
    ----------
    percentiles
        Intensity at each percentile (0 to 100).
    low, high
        Intensity at the first and the last of the requested percentiles.
    mean, std, minimum, maximum
        Moments and extremes of the finite voxels; the standard deviation divides by their number.
    n_voxels
        Number of finite voxels in the sample.
    nan_fraction
        Fraction of the sampled voxels that were NaN or infinite.
    seed
        Seed of the sample.
    n_units, n_units_missing
        Boxes that were read, and boxes that a sparse array omits; a target that is read whole is
        one box.
    n_units_unreadable
        Boxes that could not be read, such as corrupt chunks, and are left out.
    constant_fraction
        Fraction of the sampled voxels that lie in areas of one value (64 x 64 voxels of a plane):
        padding, or chunks that are not stored. They are left out.
    digest
        SHA-256 of the voxels that were read: another one tells that the target has changed.
    equal_fraction
        Fraction of neighbouring voxels that are equal, background aside, where it is so large that
        these may be labels; else 0.
    """

    percentiles: dict[float, float]
    low: float
    high: float
    mean: float
    std: float
    minimum: float
    maximum: float
    n_voxels: int
    nan_fraction: float
    seed: int
    n_units: int
    n_units_missing: int
    n_units_unreadable: int = 0
    constant_fraction: float = 0.0
    digest: str = ""
    equal_fraction: float = 0.0

    def percentile(self, q: float) -> float:
        """Return the intensity at a percentile that was computed.

        Parameters
        ----------
        q
            The percentile, 0 to 100.

        Raises
        ------
        ValueError
            If it was not computed.
        """
        if float(q) not in self.percentiles:
            computed = ", ".join(f"{p:g}" for p in self.percentiles)
            raise ValueError(f"percentile {q} was not computed: these were {computed}")
        return self.percentiles[float(q)]

    @property
    def doubt(self) -> str:
        """Why the target may hold labels, in words; empty if it looks like an image."""
        if not self.equal_fraction:
            return ""
        return (
            f"the target looks like labels or a mask: {self.equal_fraction:.0%} of neighbouring "
            "voxels outside its background are equal, and models want intensities"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON takes them: percentiles keyed by text."""
        values = {**asdict(self), "percentiles": {repr(q): v for q, v in self.percentiles.items()}}
        if not self.equal_fraction:  # of images it says nothing
            del values["equal_fraction"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> IntensityStatistics:
        """Return the statistics that :meth:`to_dict` returned, bit for bit.

        Parameters
        ----------
        values
            The dictionary that it returned.
        """
        percentiles = {float(q): float(v) for q, v in values["percentiles"].items()}
        return cls(**{**values, "percentiles": percentiles})


def intensity_statistics(
    volume: Volume,
    *,
    percentiles: Sequence[float] = (1.0, 99.8),
    seed: int = 0,
    max_voxels: int = 2**24,
) -> IntensityStatistics:
    """Describe the intensities of a target's region of interest, within its mask.

    A region of at most ``max_voxels`` is read whole, so that the result is exact and does not
    depend on how the array is chunked. Of a larger one, whole shards or chunks (of very large or
    very small ones, parts or groups) are drawn at random without replacement until
    ``max_voxels`` are read; those that a sparse array omits are skipped. Areas of one value say
    nothing of what was imaged, and are left out.

    Parameters
    ----------
    volume
        The target.
    percentiles
        Percentiles to compute, 0 to 100, by linear interpolation (as :func:`numpy.percentile`). The
        first, which gives ``low``, is below the last, which gives ``high``.
    seed
        Seed of the sample; not negative.
    max_voxels
        Size of the sample, in voxels.

    Returns
    -------
    IntensityStatistics
        In raw units.

    Raises
    ------
    ValueError
        If an argument is out of range; if the target holds no finite voxel, or none is found in
        a bounded number of draws, or its low and high are equal.
    VolumeReadError
        If stored voxels cannot be read.
    """
    qs = _checked_percentiles(percentiles)
    for name, value, least in (("seed", seed, 0), ("max_voxels", max_voxels, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    sample = draw_sample(volume, seed=seed, max_voxels=max_voxels)
    values = sample.values
    if values.size == 0:
        raise VolumeError(f"target {volume.name} holds no finite voxel{_where(volume, sample)}")
    minimum, maximum = float(values.min()), float(values.max())
    if minimum < maximum:
        _check_precision(volume, minimum, maximum)
    mean, std = _moments(values)
    equal_fraction = _equal_fraction(values)  # before the order of the voxels is lost
    intensities = _interpolated(values, qs)
    _check_contrast(volume, intensities, minimum, maximum)
    n_sampled = values.size + sample.n_not_finite + sample.n_constant
    return IntensityStatistics(
        percentiles=intensities,
        low=intensities[qs[0]],
        high=intensities[qs[-1]],
        mean=mean,
        std=std,
        minimum=minimum,
        maximum=maximum,
        n_voxels=values.size,
        nan_fraction=sample.n_not_finite / n_sampled,
        seed=seed,
        n_units=sample.n_units,
        n_units_missing=sample.n_units_missing,
        n_units_unreadable=sample.n_units_unreadable,
        constant_fraction=sample.n_constant / n_sampled,
        digest=sample.digest,
        equal_fraction=equal_fraction,
    )


def _check_precision(volume: Volume, minimum: float, maximum: float) -> None:
    """Refuse what networks, which compute in single precision, could not tell apart."""
    largest = max(abs(minimum), abs(maximum))
    if largest > float(np.finfo(np.float32).max):
        raise VolumeError(
            f"target {volume.name} holds {largest:g}, more than single precision can: is that a "
            "marker of missing voxels? Replace it by NaN, or leave it out with --mask or --roi"
        )
    if largest < float(np.finfo(np.float32).tiny):
        raise VolumeError(
            f"target {volume.name} holds at most {largest:g}, which single precision, in which "
            "networks compute, hardly tells from 0: multiply the array by a constant first"
        )
    step = float(np.spacing(np.float32(largest)))
    if (maximum - minimum) < _FEWEST_STEPS * step:
        raise VolumeError(
            f"target {volume.name} has intensities from {minimum:.15g} to {maximum:.15g}, which "
            f"single precision, in which networks compute, tells apart in steps of {step:g} only: "
            f"subtract {minimum:.15g} from the array first"
        )


def chunks_missing(volume: Volume) -> tuple[int, int] | None:
    """Return how many chunks (or shards) of a target's region are not stored, and of how many.

    Parameters
    ----------
    volume
        The target.

    Returns
    -------
    tuple or None
        None where there are too many to ask for each.
    """
    count = volume.storage_objects((0, 0, 0), volume.shape)
    if count > _ASKED_FOR:
        return None
    return volume.missing_chunks((0, 0, 0), volume.shape), count


def _equal_fraction(values: NDArray[Any]) -> float:
    """Return how many neighbours are equal, outside the commonest value; 0 if that is usual.

    Noise makes neighbours of an image differ, whatever it shows. Voxels that are side by side here
    are so along x, but for the ends of rows.
    """
    if values.dtype.kind not in "iu":
        return 0.0
    stretch = values[:_STRETCH]
    levels, counts = np.unique(stretch, return_counts=True)
    inside = stretch != levels[np.argmax(counts)]
    pairs = inside[1:] & inside[:-1]
    n_pairs = int(np.count_nonzero(pairs))
    if n_pairs < _FEWEST_PAIRS:
        return 0.0
    fraction = float(np.count_nonzero((stretch[1:] == stretch[:-1]) & pairs)) / n_pairs
    return fraction if fraction >= _LABELS_EQUAL else 0.0


def _checked_percentiles(percentiles: Sequence[float]) -> list[float]:
    qs = list(dict.fromkeys(float(q) for q in percentiles))
    if not qs or not all(0 <= q <= 100 for q in qs):
        raise ValueError(f"percentiles {tuple(percentiles)} must be one or more of 0 to 100")
    if len(qs) > 1 and qs[0] >= qs[-1]:
        raise ValueError(f"percentiles {tuple(percentiles)}: the first must be below the last")
    return qs


def _where(volume: Volume, sample: Sample) -> str:
    message = f" among {sample.n_not_finite} voxels looked at"
    return f"{message}{'' if volume.mask is None else ' within its mask'}"


def _moments(values: NDArray[Any]) -> tuple[float, float]:
    # the sum in float64: in float32 it would lose the last digits of millions of voxels
    mean = float(np.mean(values, dtype=np.float64))
    # in stretches, so that no float64 copy of the sample is made
    squares = (float(np.sum(np.square(stretch - mean))) for stretch in _stretches(values))
    return mean, float(np.sqrt(sum(squares) / values.size))


def _stretches(values: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, values.size, _STRETCH):
        yield values[start : start + _STRETCH].astype(np.float64)


def _interpolated(values: NDArray[Any], qs: list[float]) -> dict[float, float]:
    """Return percentiles in float64, whatever the element type; reorders `values` in place."""
    positions = [(values.size - 1) * (q / 100) for q in qs]
    below = [int(position) for position in positions]
    above = [min(index + 1, values.size - 1) for index in below]
    # puts these elements where sorting would, in linear time and without a float64 copy
    values.partition(sorted({*below, *above}))
    pairs = [(float(values[a]), float(values[b])) for a, b in zip(below, above, strict=True)]
    return {
        q: _between(a, b, position - index)
        for q, (a, b), position, index in zip(qs, pairs, positions, below, strict=True)
    }


def _between(a: float, b: float, weight: float) -> float:
    # from the nearer end, as NumPy does, so that both agree to the last bit
    return a + (b - a) * weight if weight < 0.5 else b - (b - a) * (1 - weight)


def _check_contrast(
    volume: Volume, intensities: dict[float, float], minimum: float, maximum: float
) -> None:
    if minimum == maximum:
        raise VolumeError(
            f"target {volume.name} is constant: every voxel looked at is {minimum:g}"
            f"{_omitted(volume)}; is it the right channel, level and region?"
        )
    # in the order of the request, whose first is the low and last the high percentile
    low_q, low = next(iter(intensities.items()))
    high_q, high = next(reversed(intensities.items()))
    if len(intensities) > 1 and high <= low:
        raise VolumeError(
            f"target {volume.name} has no contrast: its percentiles {low_q:g} and {high_q:g} are "
            f"both {low:g} (of {minimum:g} to {maximum:g}); choose other percentiles, a --roi or "
            "a --mask that leaves the background out"
        )


def not_stored(volume: Volume) -> str:
    """Return how many chunks of a target's region are not stored, in words; empty if none.

    Parameters
    ----------
    volume
        The target.
    """
    try:
        missing, count = chunks_missing(volume) or (0, 0)
    except VolumeReadError:  # a store that refuses is told where voxels are wanted of it
        return ""
    if not missing:
        return ""
    return (
        f"{missing} of {count} chunks are not stored and read as their fill value: a conversion "
        "that broke off, or empty space; they enter neither intensities nor scores"
    )


def _omitted(volume: Volume) -> str:
    missing, count = chunks_missing(volume) or (0, 1)
    if missing < count:
        return ""
    return f" (the array omits all of its {count} chunks here, so that is its fill value)"
