"""The result of an anytime run: what is proven, what is open, and after how many blocks.

`Decision` holds it as a value; `verdict` says it in one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cte_dask.engine.racing.goal import Goal
    from cte_dask.engine.racing.race import Race

__all__ = ["Decision", "listed", "verdict"]


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
            Names of its models.
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
        settled = race.proven is not None or race.blocks == total
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
            rivals=() if settled else _named(names, open_),
            dropped={names[m]: blocks for m, blocks in race.dropped.items()},
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
        settled = self.stopped == "all blocks"
        return replace(self, best=best, rivals=() if settled else tuple(sorted(rivals)))

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


FEW = 4


def verdict(decision: Decision) -> str:
    """Return one line: what is decided or still open, how surely, and after how much.

    Examples
    --------
    >>> from cte_dask.engine.racing.decision import Decision
    >>> from cte_dask.engine.racing.goal import Goal
    >>> decision = Decision(Goal(), 34, 5120, "decided", ("X",), ("Y",), (), {"Z": 8}, (), {})
    >>> verdict(decision)
    'decided: X is the best (error at most 5 %) after 34 of 5120 blocks; not decided between X and \
Y: Y is better by 0.005 at most, if at all'
    """
    after = f"after {decision.blocks} of {decision.total} blocks"
    if decision.stopped == "nobody":
        return f"no model can be recommended {after}: all predict nothing or everything, or fail"
    if not decision.best:
        return f"not decided {after}: no model has predicted anything that can be compared"
    if decision.stopped == "all blocks":
        return f"decided: {_answer(decision)}: every block was read"
    if decision.decided:
        error = f"error at most {100 * decision.goal.delta:g} %"
        return f"decided: {_answer(decision)} ({error}) {after}{_as_good(decision)}"
    return f"not decided {after}: {_open(decision)}{_as_good(decision)}"


def _answer(decision: Decision) -> str:
    best, top = decision.best, decision.goal.top
    if top is None:
        return f"the order of all {len(best)} models"
    if len(best) == 1:
        return f"{best[0]} is the best"
    return f"{listed(best, most=len(best))} are the best {len(best)}"


def _as_good(decision: Decision) -> str:
    if not decision.close:
        return ""
    between = listed([*decision.best[:1], *decision.close])
    if decision.goal.top != 1:
        between = listed(decision.close)
        return f"; within {decision.goal.epsilon:g} of each other or of the best: {between}"
    who = listed(decision.close)
    better = "is" if len(decision.close) == 1 else "are"
    margin = f"{decision.goal.epsilon:g} at most, if at all"
    return f"; not decided between {between}: {who} {better} better by {margin}"


def _open(decision: Decision) -> str:
    if decision.goal.top is None:
        return f"the order of {listed(decision.rivals)} is open"
    leads = "leads" if len(decision.best) == 1 else "lead"
    if not decision.rivals:
        return f"{listed(decision.best)} {leads}, too little was read to say more"
    return f"{listed(decision.best)} {leads}, but {listed(decision.rivals)} may be better"


def listed(names: Sequence[str], *, most: int = FEW) -> str:
    """Return names as people list them, the first ones if there are many.

    Examples
    --------
    >>> listed(["a", "b", "c"]), listed(list("abcdefg"))
    ('a, b and c', 'a, b, c and 4 more')
    """
    if len(names) > most:
        count = max(1, most - 1)
        return f"{', '.join(names[:count])} and {len(names) - count} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
