"""Calling a network's own code for so long and no longer, and leaving no trace of it behind.

A network is foreign code. One that never comes back would hold up all models of the bank, so it is
called in a thread beside the one that waits for it: after the limit the thread is left behind, told
to end (Python code does, a loop inside a library does not), and the next call gets another. What a
network changes for the whole process (torch's default type, its threads …) is put back after each
call, as the numbers of the other models hang on it.
"""

from __future__ import annotations

import contextvars
import ctypes
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from cte_dask.errors import FOREIGN

__all__ = ["LEAST_SECONDS", "TimeLimitError", "time_limit", "trial_limit", "within"]

T = TypeVar("T")

LEAST_SECONDS = 300.0
"""What one call may take at least, however quick the network was when it was tried: a busy machine,
a first call that compiles."""
PATIENCE = 200
"""How many times as long as the trial one call may take."""
TRIALS = 3
"""How many times as long as a call all that is tried of a network may take."""
GOODBYE = 10.0
"""Seconds that a call is waited for when somebody stops the program."""


class TimeLimitError(Exception):
    """A network did not come back in time."""


class _Abandoned(BaseException):
    """Raised inside a call that nobody waits for any more."""


def time_limit(asked: float | None, tried: float) -> float:
    """Return the seconds that one call of a network may take.

    Parameters
    ----------
    asked
        What the user said; None for what follows from the trial.
    tried
        Seconds that a call took when the network was tried.
    """
    return max(LEAST_SECONDS, PATIENCE * tried) if asked is None else asked


def trial_limit(asked: float | None) -> float:
    """Return the seconds that a network may take to be loaded and tried."""
    return TRIALS * time_limit(asked, 0.0)


def within(seconds: float, call: Callable[[], T], *, what: str = "one batch") -> T:
    """Call a network's code and return what it gives.

    Parameters
    ----------
    seconds
        How long it may take.
    call
        What is called, in another thread but in this context. It must change nothing that matters
        should it come back too late.
    what
        What it does, for the message.

    Raises
    ------
    TimeLimitError
        If it takes longer.
    BaseException
        What `call` raises. A KeyboardInterrupt is the network's own, and a RuntimeError then: that
        of the user comes to the thread that waits.
    """
    if getattr(_HERE, "inside", False):
        return call()  # the network's code has called us: it is within a limit already
    runner = _runner()
    work = _Call(call, contextvars.copy_context(), [get() for get, _ in _SETTINGS])
    runner.calls.put(work)
    try:
        ended = work.ended.wait(seconds)
    except BaseException:  # the user's: a thread inside torch would abort the process as it ends
        work.ended.wait(GOODBYE)
        raise
    if not ended:
        runner.abandon()
        raise TimeLimitError(
            f"it did not come back within {seconds:g} s from {what}: it hangs, or needs a "
            "higher --time-limit"
        )
    outcome: T = work.outcome()
    return outcome


@dataclass(eq=False)
class _Call:
    """A call, and what came of it."""

    call: Callable[[], Any]
    context: contextvars.Context
    settings: list[Any]
    ended: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        """Call it; keep what it gives or raises."""
        _put_back(self.settings)
        try:
            self.result = self.context.run(self.call)
        except KeyboardInterrupt:
            self.error = RuntimeError("its code raised KeyboardInterrupt")
        except (*FOREIGN, GeneratorExit) as error:
            self.error = error
        finally:
            _put_back(self.settings)
        self.ended.set()

    def outcome(self) -> Any:
        """Return what it gave, or raise what it raised."""
        error, self.error = self.error, None  # else its frames, and all they hold, would stay
        try:
            if error is not None:
                raise error
            return self.result
        finally:
            del error


class _Runner:
    """The thread that networks run in; it ends when nobody holds its runner any more."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_work, args=(self.calls,), name="network", daemon=True
        )
        self._thread.start()

    def __del__(self) -> None:
        self.calls.put(None)

    def abandon(self) -> None:
        """Leave the thread behind, and ask it to end."""
        _HERE.runner = None
        number, error = ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_Abandoned)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, error)


_HERE = threading.local()


def _runner() -> _Runner:
    """Return the runner of this thread."""
    if getattr(_HERE, "runner", None) is None:
        _HERE.runner = _Runner()
    runner: _Runner = _HERE.runner
    return runner


def _work(calls: queue.SimpleQueue[_Call | None]) -> None:
    _HERE.inside = True
    with suppress(_Abandoned):
        while (call := calls.get()) is not None:
            call.run()
            del call


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (lambda: torch.backends.mkldnn.enabled, torch.backends.mkldnn.set_flags),
    (os.getcwd, os.chdir),
)
"""What a network may change for others: how to ask for it, how to set it."""


def _put_back(settings: list[Any]) -> None:
    for (get, put), value in zip(_SETTINGS, settings, strict=True):
        if get() != value:
            put(value)
