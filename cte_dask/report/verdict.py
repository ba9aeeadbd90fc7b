"""What an anytime run came to, in the words of whoever has the microscope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cte_dask.racing.decision import Decision

__all__ = ["listed", "verdict"]

FEW = 4


def verdict(decision: Decision) -> str:
    """Return one line: what is decided or still open, how surely, and after how much.

    Examples
    --------
    >>> from cte_dask.racing.decision import Decision
    >>> from cte_dask.racing.goal import Goal
    >>> found = Decision(Goal(), 34, 5120, "decided", ("X",), ("Y",), (), {"Z": 8}, (), {})
    >>> verdict(found)
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
        kept = max(1, most - 1)
        return f"{', '.join(names[:kept])} and {len(names) - kept} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
