"""What a run is to find out, and when it may stop: the options of an anytime ranking as a value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Annotated

from cte_dask.engine.racing.race import DELTA, EPSILON

__all__ = ["ANYTIME_ABOVE", "TYPICAL_BLOCKS", "Goal", "GoalOptions", "goal_of"]

ANYTIME_ABOVE = 256
"""Blocks of a target above which a run is anytime unless its options say otherwise."""
TYPICAL_BLOCKS = 28, 56
"""Blocks that the best model took in half, and in three of four, of simulated banks on a terabyte
(`benchmarks.race_banks.terabyte_bank`; ``tests/engine/racing/test_race.py``)."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Goal:
    """What an anytime ranking is to find out, and what it may spend.

    Parameters
    ----------
    top
        How many of the best models; None for the order of all.
    delta
        Probability at most of a wrong answer.
    epsilon
        Difference of CTE that does not matter.
    blocks, seconds
        Stop when so many blocks are read or so much time has passed, decided or not; None for no
        such end.

    Raises
    ------
    ValueError
        For a value out of its range.
    """

    top: int | None = 1
    delta: float = DELTA
    epsilon: float = EPSILON
    blocks: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"--top must be at least 1, not {self.top}")
        if not 0 < self.delta < 1:
            raise ValueError(f"--delta {self.delta:g} must lie between 0 and 1")
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"--epsilon {self.epsilon:g} must be at least 0 and below 1")
        if self.blocks is not None and self.blocks < 1:
            raise ValueError(f"--until {self.blocks}: at least one block must be read")


@dataclass(frozen=True, kw_only=True)
class GoalOptions:
    """The options of ``cte rank`` that say what is to be found out; see `goal_of`."""

    until: Annotated[
        str | None,
        "When to stop: decided, a number of blocks, or a time such as 90s, 10m, 2h. Above 256 "
        "blocks decided is the default.",
    ] = None
    top: Annotated[int | None, "How many of the best models to find; default 1."] = None
    full_order: Annotated[bool, "Find the order of all models, not the best alone."] = False
    delta: Annotated[float | None, "Probability of a wrong decision, at most; default 0.05."] = None
    epsilon: Annotated[float | None, "Difference of CTE that does not matter; default 0.005."] = (
        None
    )
    exhaustive: Annotated[bool, "Score every block, however large the target."] = False

    @property
    def anytime(self) -> bool:
        """Whether an anytime run was asked for."""
        return self.until is not None or self.top is not None or self.full_order

    def goal(self, blocks: int) -> Goal | None:
        """Return what is to be found out on a target of so many blocks; see `goal_of`."""
        return goal_of(blocks, **{f.name: getattr(self, f.name) for f in fields(GoalOptions)})


def goal_of(
    blocks: int,
    *,
    until: str | None = None,
    exhaustive: bool = False,
    top: int | None = None,
    full_order: bool = False,
    delta: float | None = None,
    epsilon: float | None = None,
) -> Goal | None:
    """Return what a run is to find out; None if it is to score every block.

    Parameters
    ----------
    blocks
        Of the target. Above `ANYTIME_ABOVE`, or if `until` or an answer is asked for, a run is
        anytime.
    until
        ``decided``, a number of blocks, or a time such as ``90s``, ``10m``, ``2h``.
    exhaustive
        Score every block.
    top, full_order
        How many of the best models to find, or the order of all; by default the best one.
    delta, epsilon
        See `Goal`; None for its own.

    Raises
    ------
    ValueError
        For options that exclude each other or that cannot be read.
    """
    explicit = until is not None or top is not None or full_order
    if exhaustive and explicit:
        raise ValueError("--exhaustive scores every block: leave out --until, --top, --full-order")
    if top is not None and full_order:
        raise ValueError("--top and --full-order exclude each other")
    number, seconds = _parsed(until)
    answer = None if full_order else 1 if top is None else top
    error, margin = DELTA if delta is None else delta, EPSILON if epsilon is None else epsilon
    goal = Goal(answer, error, margin, number, seconds)
    return goal if explicit or (blocks > ANYTIME_ABOVE and not exhaustive) else None


def _parsed(until: str | None) -> tuple[int | None, float | None]:
    if until is None or until == "decided":
        return None, None
    if until.isdecimal():
        return int(until), None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", until)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else math.nan
    if not seconds > 0:
        raise ValueError(
            f"--until {until!r} must be decided, a number of blocks, or a time such as 90s, 10m, 2h"
        )
    return None, seconds
