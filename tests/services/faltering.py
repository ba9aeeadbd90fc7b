"""What a busy or distant object store does to its clients, at seeded random."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping

__all__ = ["KINDS", "Faltering", "reset"]

KINDS = ("busy", "reset", "slow", "cut")
"""503 before asking the server; the connection reset without an answer; an answer that takes a
while; half of an answer, then the connection reset."""


class Faltering:
    """Decides which requests are answered badly, and how.

    Parameters
    ----------
    rates
        Probability of each of `KINDS`.
    seed
        Of the draws.
    """

    def __init__(self, rates: Mapping[str, float] | None = None, seed: int = 0) -> None:
        self._rates = dict(rates or {})
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.requests = 0
        self.counts: Counter[str] = Counter()

    def next(self, method: str) -> str:
        """Return one of `KINDS`, or nothing; only what is read can be cut short."""
        with self._lock:
            self.requests += 1
            drawn = self._random.random()
            for kind, rate in self._rates.items():
                if drawn < rate and not (kind == "cut" and method != "GET"):
                    self.counts[kind] += 1
                    return kind
                drawn -= rate
        return ""


def reset(connection: socket.socket) -> None:
    """Close a connection the rude way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
