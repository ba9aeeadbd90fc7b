"""Which model a report tells to take, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["answer"]

CLEAR = 0.95


def answer(
    models: Sequence[Mapping[str, Any]],
    usable: Sequence[int],
    race: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return which model to take and how sure that is; None if no model can be recommended.

    Parameters
    ----------
    models
        Best first; ``beaten`` is in how many resamples the first one is ahead.
    usable
        Places of those that are not degenerate.
    race
        What an anytime run came to, of ``ranking.json``; None of an exhaustive one.
    """
    known = [models[n] for n in usable if models[n]["cte"] is not None]
    if not known:
        return None
    top, others = known[0], known[1:]
    if race is None:
        beats = [m for m in others if m["beaten"] >= CLEAR]
    else:
        beats = [m for m in others if m["name"] not in {*race["close"], *race["rivals"]}]
    open_ = [m for m in others if m not in beats]
    decided = not open_ if race is None else race["decided"]
    shown = top["cte"]
    return {
        "model": top,
        "beats": beats,
        "open": open_,
        "verdict": "alone" if not others else "clear" if decided else "open",
        "misleading": [
            m for m in models if m["degenerate"] and m["cte"] is not None and m["cte"] >= shown
        ],
    }
