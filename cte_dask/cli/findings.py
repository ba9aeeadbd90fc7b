"""What ``cte doctor`` finds: one line a thing, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]

State = Literal["ok", "absent", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Parameters
    ----------
    group
        ``versions``, ``extras``, ``machine`` or ``store``.
    name
        The thing checked.
    state
        ``ok``; ``absent``: missing, and only some uses need it; ``bad``: will not work.
    told
        The message; also its key in ``--json``.
    remedy
        What to do; empty if nothing is to be done.
    """

    group: str
    name: str
    state: State
    told: str
    remedy: str = ""
