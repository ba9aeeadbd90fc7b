"""The recommendation that the report makes: which model, how surely, or none at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["answer"]

CLEAR = 0.95
"""Fraction of the resamples from which on one model clearly beats another."""


def answer(
    models: Sequence[Mapping[str, Any]],
    usable: Sequence[int],
    race: Mapping[str, Any] | None,
    *,
    as_good: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Return the recommended model and its certainty; None if no model can be recommended.

    How often a model is behind the first one is not yet whether it is beaten: where estimated F1
    does not tell the two apart, it may be as good however surely it is behind.

    Parameters
    ----------
    models
        Best first; ``beaten`` is the fraction of resamples in which the first one is ahead.
    usable
        Places of the models that are not degenerate.
    as_good
        Names of models that estimated F1 does not tell from the first one.
    race
        The result of an anytime run in ``ranking.json``; None for an exhaustive run.
    """
    recommendable = [models[n] for n in usable if models[n]["transfer"]["value"] is not None]
    if not recommendable:
        return None
    top, others = recommendable[0], recommendable[1:]
    told = [m for m in others if m["name"] not in as_good]
    if race is None:
        beats = [m for m in told if (m["beaten"] or 0.0) >= CLEAR]
    else:
        beats = [m for m in told if m["name"] not in {*race["close"], *race["rivals"]}]
    undecided = [m for m in others if m not in beats]
    decided = not undecided if race is None else race["decided"]
    return {
        "model": top,
        "standing": {m["name"]: "may be as good" for m in undecided}
        | {m["name"]: "clearly beaten" for m in beats},
        "beats": beats,
        "open": undecided,
        "verdict": "alone" if not others else "clear" if decided else "open",
        "misleading": [
            m for m in models if m["degenerate"] and m["cte"] is not None and m["cte"] >= top["cte"]
        ],
    }
