"""How preprocessing steps turn the intensities of a target into a network's input.

Most steps are affine once their statistics are known. Consecutive affine steps of a channel fold,
in float64, into one gain and offset, which is applied once in float32. A step needs the statistics
of what the step before it returns: those of the raw target, or of the array for scope ``tile``, are
carried through the earlier steps by arithmetic, without applying these to the array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cte_dask.arrays import Array, namespace
from cte_dask.models.preprocessing import (
    Clip,
    EnsureDtype,
    FixedZeroMeanUnitVariance,
    Parameters,
    ScaleLinear,
    ScaleRange,
    Step,
    ZeroMeanUnitVariance,
)

__all__ = ["Statistics", "preprocess"]


class Statistics(Protocol):
    """Intensities of a channel of the whole target, in raw units."""

    @property
    def mean(self) -> float:
        """Mean intensity."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation of the intensities."""
        ...

    def percentile(self, q: float, /) -> float:
        """Return the q-th percentile, q in [0, 100]."""
        ...


class _OfInput(Protocol):
    """Statistics of what a step gets."""

    def percentile(self, q: float) -> float: ...

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation."""
        ...


@dataclass(frozen=True, slots=True)
class _Affine:
    """The map x -> gain · x + offset."""

    gain: float = 1.0
    offset: float = 0.0

    def then(self, after: _Affine) -> _Affine:
        """Return the map that applies this one first, then `after`."""
        return _Affine(after.gain * self.gain, after.gain * self.offset + after.offset)

    def __call__(self, value: float) -> float:
        return self.gain * value + self.offset


@dataclass(frozen=True, slots=True)
class _Transformed:
    """Statistics of `source` after the steps in `passed`."""

    source: Statistics
    passed: tuple[_Affine | Clip | EnsureDtype, ...] = ()

    def after(self, step: _Affine | Clip | EnsureDtype) -> _Transformed:
        return _Transformed(self.source, (*self.passed, step))

    def percentile(self, q: float) -> float:
        # a negative gain turns the order around: the 1st percentile becomes the 99th
        mirrored = math.prod(s.gain for s in self.passed if isinstance(s, _Affine)) < 0
        value = float(self.source.percentile(100.0 - q if mirrored else q))
        for step in self.passed:
            value = step(value) if isinstance(step, _Affine) else float(_bend(value, step))
        return value

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation; raise if a step in `passed` is not affine."""
        affine = _Affine()
        for step in self.passed:
            if not isinstance(step, _Affine):
                raise TypeError(f"the mean after {type(step).__name__} is not known")
            affine = affine.then(step)
        return affine(float(self.source.mean)), abs(affine.gain) * float(self.source.std)


@dataclass(frozen=True, slots=True)
class _Together:
    """Statistics of all voxels of several channels, of which each counts alike."""

    channels: tuple[_Transformed, ...]

    def percentile(self, q: float) -> float:
        if q not in (0, 100):
            raise ValueError(f"percentile {q:g} of several channels together is not known")
        return (min if q == 0 else max)(c.percentile(q) for c in self.channels)

    def moments(self) -> tuple[float, float]:
        means, deviations = np.array([c.moments() for c in self.channels]).T
        # a channel's voxels lie around its own mean, and that mean around the mean of all
        return float(means.mean()), float(np.sqrt((deviations**2).mean() + means.var()))


@dataclass(frozen=True, slots=True)
class _ArrayStatistics:
    """The statistics of one array, computed on access."""

    x: Array

    @property
    def mean(self) -> float:
        return float(self.x.mean(dtype=np.float64))

    @property
    def std(self) -> float:
        return float(self.x.std(dtype=np.float64))

    def percentile(self, q: float) -> float:
        return float(namespace(self.x).percentile(self.x, q))


@dataclass(slots=True)
class _Channel:
    """A channel on its way through the steps.

    Parameters
    ----------
    x
        Its voxels after the last clip or cast.
    of_target
        Statistics of the channel in the whole target, as of `x`; None if there are none.
    pending
        The affine steps since then.
    """

    x: Array
    of_target: _Transformed | None
    pending: _Affine = _Affine()

    def settle(self) -> npt.NDArray[np.float32]:
        """Apply what is pending; return the voxels."""
        if self.of_target is not None:
            self.of_target = self.of_target.after(self.pending)
        self.x, self.pending = _apply(self.x, self.pending), _Affine()
        return self.x

    def bend(self, step: Clip | EnsureDtype) -> None:
        """Apply a step that is not affine."""
        self.x = _bend(self.settle(), step)
        if self.of_target is not None:
            self.of_target = self.of_target.after(step)

    def of_input(self, scope: str) -> _Transformed | None:
        """Return the statistics of what the next step gets."""
        source = _Transformed(_ArrayStatistics(self.x)) if scope == "tile" else self.of_target
        return None if source is None else source.after(self.pending)


def preprocess(
    channels: Sequence[Array], steps: Sequence[Step], statistics: Sequence[Statistics] | None
) -> list[npt.NDArray[np.float32]]:
    """Apply preprocessing steps to raw intensities.

    Parameters
    ----------
    channels
        Raw intensities of the C channels of one image, all of one shape and of any real dtype,
        NumPy or CuPy; a perturbation may have turned integers into floats.
    steps
        The steps in order; lists in them have C numbers.
    statistics
        Statistics of each channel in the whole target, in raw units; only steps of scope volume
        need them.

    Returns
    -------
    list of ndarray of float32, the shape of a channel
        C new arrays in the library of `channels`.

    Raises
    ------
    ValueError
        If a step of scope volume gets no statistics or not finite ones, or an array is empty.

    Notes
    -----
    Formulas of the BioImage.IO model description 0.5; see `cte_dask.models.preprocessing.Step`. In
    contrast to a cast, ``ensure_dtype`` to integers rounds and saturates, so that an integer that
    became 4.9999996 on its way stays 5.
    """
    if channels[0].size == 0:
        raise ValueError(f"nothing to preprocess: the array has shape {channels[0].shape}")
    of_target = [None] * len(channels) if statistics is None else map(_Transformed, statistics)
    states = [_Channel(x, known) for x, known in zip(channels, of_target, strict=True)]
    for step in steps:
        _advance(states, step)
    return [_apply(state.x, state.pending) for state in states]


def _advance(states: Sequence[_Channel], step: Step) -> None:
    """Take the channels through one step."""
    parameters = step.parameters
    numbers = range(len(states)) if step.channel is None else (step.channel,)
    if isinstance(parameters, EnsureDtype) and not step.bends:
        return  # everything is computed in floating point as it is
    if isinstance(parameters, Clip | EnsureDtype):
        for number in numbers:
            states[number].bend(parameters)
    elif step.joint and len(states) > 1:
        affine = _affine(parameters, _joint(states, step.scope), 0)
        for state in states:
            state.pending = state.pending.then(affine)
    else:
        for number in numbers:
            affine = _affine(parameters, states[number].of_input(step.scope), number)
            states[number].pending = states[number].pending.then(affine)


def _joint(states: Sequence[_Channel], scope: str) -> _OfInput | None:
    """Return the statistics of what a step gets of all channels together."""
    if scope == "tile":
        voxels = [state.settle().reshape(-1) for state in states]
        return _Transformed(_ArrayStatistics(namespace(voxels[0]).concatenate(voxels)))
    each = [state.of_input(scope) for state in states]
    known = tuple(one for one in each if one is not None)
    return _Together(known) if len(known) == len(each) else None


def _affine(parameters: Parameters, statistics: _OfInput | None, channel: int) -> _Affine:
    """Return the gain and offset of an affine step, given the statistics of its input."""
    if isinstance(parameters, ScaleLinear):
        return _Affine(_of(parameters.gain, channel), _of(parameters.offset, channel))
    if isinstance(parameters, FixedZeroMeanUnitVariance):
        return _centred(_of(parameters.mean, channel), _of(parameters.std, channel))
    if statistics is None:
        raise ValueError("a preprocessing step of scope volume needs the target's statistics")
    if isinstance(parameters, ScaleRange):
        low = _finite(statistics.percentile(parameters.min_percentile))
        high = _finite(statistics.percentile(parameters.max_percentile))
        return _centred(low, high - low + parameters.eps)
    if isinstance(parameters, ZeroMeanUnitVariance):
        mean, std = statistics.moments()
        return _centred(_finite(mean), _finite(std) + parameters.eps)
    raise TypeError(f"{type(parameters).__name__} is no affine step")


def _of(numbers: float | tuple[float, ...], channel: int) -> float:
    return numbers[channel] if isinstance(numbers, tuple) else numbers


def _centred(centre: float, width: float) -> _Affine:
    return _Affine(1.0 / width, -centre / width)


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise ValueError(f"preprocessing needs finite statistics, got {value}: is the data NaN?")
    return value


def _apply(x: Array, affine: _Affine) -> npt.NDArray[np.float32]:
    # new even of float32 that nothing changes
    result: npt.NDArray[np.float32] = x.astype(np.float32, copy=affine.gain == 1.0)
    if affine.gain != 1.0:
        result = result * np.float32(affine.gain)
    if affine.offset != 0.0:
        result += np.float32(affine.offset)
    return result


def _bend(x: Any, step: Clip | EnsureDtype) -> Any:
    """Apply a step that is not affine to an array or a number; keep its floating type."""
    xp = np if isinstance(x, float) else namespace(x)
    if isinstance(step, Clip):
        return xp.clip(x, step.min, step.max)
    limits = np.iinfo(step.dtype)
    return xp.clip(xp.rint(x), limits.min, limits.max)
