"""Geometry of the report's small charts: coordinates and paths from numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Axis", "axis_over", "curve_chart", "histogram_path", "ticks"]

HEIGHT = 34
MARKS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis.

    Parameters
    ----------
    low, high
        Values at its ends.
    start, stop
        Coordinates of its ends, in pixels.
    """

    low: float
    high: float
    start: float
    stop: float

    def coordinate(self, value: float) -> float:
        """Return the coordinate of a value, clipped to the ends."""
        fraction = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(fraction, 0), 1) * (self.stop - self.start), 2)

    def marks(self, most: int = 4) -> list[dict[str, Any]]:
        """Return round values along the axis with their coordinates and texts."""
        return [
            {"at": self.coordinate(v), "text": f"{v:g}"} for v in ticks(self.low, self.high, most)
        ]


def axis_over(values: Iterable[float], start: float, stop: float) -> Axis:
    """Return an axis that shows all values between 0 and 1, with some room around them."""
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    # Some room even where all values are equal: an axis needs two ends.
    room = max(0.05 * (max(finite) - min(finite)), 0.005)
    return Axis(max(0.0, min(finite) - room), min(1.0, max(finite) + room), start, stop)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` round values between two.

    Examples
    --------
    >>> ticks(0.913, 0.998, 4)
    [0.92, 0.94, 0.96, 0.98]
    """
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    # A power of ten below the wanted step, times the first round factor that is coarse enough.
    for factor in (1, 2, 5, 10, 20):
        # 1e-9: an end that is round itself must not be lost to rounding.
        first = math.ceil(low / (step * factor) - 1e-9)
        last = math.floor(high / (step * factor) + 1e-9)
        if last - first < most:
            return [float(f"{i * step * factor:.6g}") for i in range(first, last + 1)]
    return [low, high]


def histogram_path(counts: NDArray[Any], axis: Axis, *, bars: int = 48) -> str:
    """Return a histogram as the path of its outline, as high as `HEIGHT` pixels.

    Parameters
    ----------
    counts
        Numbers in equal bins between 0 and 1.
    axis
        Axis of the values; those below its low end are counted in the first bar.
    bars
        Number of bars.
    """
    total = [0] * bars
    for bin_, count in enumerate(counts):
        if count:
            fraction = ((bin_ + 0.5) / len(counts) - axis.low) / (axis.high - axis.low)
            total[min(max(int(fraction * bars), 0), bars - 1)] += int(count)
    tallest = max(total) or 1
    width = (axis.stop - axis.start) / bars
    # Each bar is one vertical and one relative horizontal move: half the text of absolute corners.
    steps = [f"V{HEIGHT - count / tallest * (HEIGHT - 2):.1f}h{width:.2f}" for count in total]
    return f"M{axis.start:g} {HEIGHT}{''.join(steps)}V{HEIGHT}Z"


def curve_chart(calibration: dict[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Return the strength curve: a line per model, and Kendall's W.

    Parameters
    ----------
    calibration
        Content of ``calibration.json``.
    order
        Names of the models, best first; others of the calibration follow.

    Returns
    -------
    dict
        Axes, lines and the same numbers as a table.
    """
    strengths = calibration["strengths"]
    names = sorted(
        {name for s in strengths for name in s["models"]},
        key=lambda n: (order.index(n) if n in order else len(order), n),
    )
    ctes = {n: [s["models"].get(n, {}).get("cte") for s in strengths] for n in names}
    x = Axis(0, max(len(strengths) - 1, 1), 44, 600)
    y = axis_over((v for line in ctes.values() for v in line if v is not None), 236, 26)
    concordance = Axis(0, 1, 96, 8)
    return {
        "kind": calibration["kind"],
        "metric": calibration["metric"],
        "chosen": calibration["chosen"],
        "fallback": calibration["fallback"],
        "pilot_tiles": calibration["pilot_tiles"],
        "x": [
            {"at": x.coordinate(i), "text": f"{s['strength']:g}"} for i, s in enumerate(strengths)
        ],
        "chosen_at": next((x.coordinate(i) for i, s in enumerate(strengths) if s["chosen"]), None),
        "y": y.marks(),
        "w_marks": concordance.marks(2),
        "w": _points([s["kendall_w"] for s in strengths], x, concordance),
        "lines": [
            {
                "name": name,
                "model": order.index(name) if name in order else -1,
                "points": _points(ctes[name], x, y),
                "mark": MARKS[number % len(MARKS)],
                "ctes": ctes[name],
            }
            for number, name in enumerate(names)
        ],
        "strengths": strengths,
    }


def _points(values: Sequence[float | None], x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [(x.coordinate(i), y.coordinate(v)) for i, v in enumerate(values) if v is not None]
