"""Being asked to stop by a queue: SIGTERM and SIGUSR1 end a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stoppable"]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Of a batch system: at the end, at a preemption, or a while before the walltime."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first of `SIGNALS`, and ignore the rest.

    What runs has then the time that the batch system grants to drop its block and to write what
    it has; a second signal must not cut that short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)
