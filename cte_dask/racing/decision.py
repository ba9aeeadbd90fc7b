"""What an anytime run came to, as a value: what is proven, what is open, and after how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cte_dask.racing.goal import Goal
    from cte_dask.racing.race import Race

__all__ = ["Decision"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What an anytime run came to.

    Parameters
    ----------
    goal
        What it was to find out.
    blocks, total
        Blocks that were taken in, and those of the target.
    stopped
        ``decided``, ``budget`` (the blocks or the time asked for are spent), ``interrupted``,
        ``all blocks`` (every one was read: nothing is uncertain), or ``nobody`` (every model is
        set aside).
    best
        The best models, best first: proven if `decided`, else those that stand first now. In a
        full order all that are in question.
    close
        Models of which it is proven that they are better than a model in `best` by epsilon at
        most, but not that they are worse: in practice as good.
    rivals
        Models that may still be among the best; none if `decided`.
    dropped
        Beaten models, and after how many blocks.
    aside
        Models set aside: surely degenerate, or without any number.
    intervals
        Each model's median lies between these; each holds with 95 %, whenever one looks.
    """

    goal: Goal
    blocks: int
    total: int
    stopped: str
    best: tuple[str, ...]
    close: tuple[str, ...]
    rivals: tuple[str, ...]
    dropped: Mapping[str, int]
    aside: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def decided(self) -> bool:
        """Whether the answer is proven, or nothing is left to read."""
        return self.stopped in ("decided", "all blocks")

    @classmethod
    def of(
        cls,
        race: Race,
        names: Sequence[str],
        *,
        goal: Goal,
        total: int,
        aside: Sequence[str],
        interrupted: bool,
        intervals: Mapping[str, tuple[float, float]],
    ) -> Decision:
        """Return what a race came to.

        Parameters
        ----------
        race
            The race.
        names
            Of its models.
        goal, total, aside, intervals
            See `Decision`.
        interrupted
            Whether somebody stopped it.
        """
        best = race.standing
        others = np.flatnonzero(race.active).tolist()
        others = [m for m in others if m not in best and names[m] not in aside]
        pairs = [(b, m) for b in best for m in others]
        if goal.top is None:
            pairs = [(b, m) for number, b in enumerate(best) for m in best[number + 1 :]]
        open_ = {m for b, m in pairs if not race.within(b, m)}
        close = {m for b, m in pairs if not race.beats(b, m)} - open_
        known = race.proven is not None or race.blocks == total
        stopped = "budget"
        if race.blocks == total:
            stopped = "all blocks"
        elif race.proven is not None:
            stopped = "decided"
        elif {names[int(m)] for m in np.flatnonzero(race.active)} <= set(aside):
            stopped = "nobody"
        elif interrupted:
            stopped = "interrupted"
        return cls(
            goal=goal,
            blocks=race.blocks,
            total=total,
            stopped=stopped,
            best=tuple(names[m] for m in best),
            close=() if stopped == "all blocks" else _named(names, close),
            rivals=() if known else _named(names, open_),
            dropped={names[m]: at for m, at in race.dropped.items()},
            aside=tuple(aside),
            intervals=dict(intervals),
        )

    def led_by(self, order: Sequence[str]) -> Decision:
        """Return the same with the models that lead a ranking, unless others are proven.

        Parameters
        ----------
        order
            Names of models that may win, best first.
        """
        if self.stopped == "decided" or not self.best:
            return self
        best = tuple(order[: len(order) if self.goal.top is None else self.goal.top])
        rivals = {*self.rivals, *self.best} - set(best if self.goal.top is not None else ())
        known = self.stopped == "all blocks"
        return replace(self, best=best, rivals=() if known else tuple(sorted(rivals)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for ``ranking.json``."""
        return {
            "decided": self.decided,
            "stopped": self.stopped,
            "goal": asdict(self.goal),
            "proven": list(self.best) if self.decided else [],
            "leading": list(self.best),
            "close": list(self.close),
            "rivals": list(self.rivals),
            "dropped": dict(self.dropped),
            "aside": list(self.aside),
        }


def _named(names: Sequence[str], models: Any) -> tuple[str, ...]:
    return tuple(names[m] for m in sorted(models))
