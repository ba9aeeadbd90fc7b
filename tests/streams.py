"""Stands in for the streams of a GPU: what is given to them runs at the worst moment allowed.

Copies run as late or as early as events let them, and all computing as late as it may.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Stream:
    """Work in its order, none of it done before somebody waits for it."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def add(self, work: Callable[[], None]) -> tuple[Stream, int]:
        self.work.append(work)
        return self, len(self.work)

    def run(self, until: int) -> None:
        while self.done < until:
            self.done += 1
            self.work[self.done - 1]()


def reach(event: tuple[Stream, int]) -> None:
    stream, place = event
    stream.run(place)


class LateCopies:
    """Streams on the CPU: copies wait until somebody needs them."""

    def __init__(self) -> None:
        self.copying, self.computing = Stream(), Stream()
        self.buffers = 0

    def pinned(self, size):
        self.buffers += 1
        return np.empty(size, np.uint8)

    def room(self, size):
        return np.empty(size, np.uint8)

    def start(self, source, target, *, after):
        self.copying.add(lambda: reach(after))
        return self.copying.add(lambda: np.copyto(target, source))

    def mark(self):
        return self.computing, len(self.computing.work)

    def hold(self, event):
        self.computing.add(lambda: reach(event))

    def wait(self, event):
        reach(event)


class EarlyCopies(LateCopies):
    """Copies run at once, if what they wait for may."""

    def start(self, source, target, *, after):
        event = super().start(source, target, after=after)
        reach(event)
        return event
