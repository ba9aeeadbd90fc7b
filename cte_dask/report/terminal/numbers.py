"""Numbers as people read them, with a dash for what is not known."""

from __future__ import annotations

import math

__all__ = ["shown_interval", "shown_number"]


def shown_number(value: float, digits: int = 4) -> str:
    """Return a score with some digits, a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def shown_interval(low: float, high: float, digits: int = 4) -> str:
    """Return the ends of an interval with some digits, a dash where it is not known."""
    if math.isnan(low) and math.isnan(high):
        return "–"
    return f"{shown_number(low, digits)} – {shown_number(high, digits)}"
