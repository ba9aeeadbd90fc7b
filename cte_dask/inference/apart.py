"""Work in a process of its own, which may hang, run out of memory or crash without harm to ours.

What it prints goes to a file, whoever of its children says it.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self, TypeVar

from cte_dask.errors import FOREIGN, reason
from cte_dask.inference.forked import NETWORKS, STARTS, forking, hear_interrupts

__all__ = ["Apart", "EndedError", "FailedError", "done_apart", "end_all"]

T = TypeVar("T")


class EndedError(Exception):
    """The process ended, or went on too long, without an answer."""


class FailedError(Exception):
    """The work raised an error, which this tells in one line."""


def done_apart(
    work: Callable[[Path], T],
    *,
    seconds: float,
    processor_seconds: float | None = None,
    running: set[Any] | None = None,
) -> T:
    """Do some work in a process of its own and return what it gives.

    Parameters
    ----------
    work
        What is done there, pickled; takes a folder that is removed afterwards.
    seconds
        How long it may take by the clock.
    processor_seconds
        How much processor time it may take; None for no limit.
    running
        Holds the process while it runs, for `end_all`.

    Raises
    ------
    EndedError
        If the process ends or is ended without an answer.
    FailedError
        If `work` raises an error.
    """
    with Apart(processor_seconds=processor_seconds, running=running) as apart:
        return apart.do(work, seconds=seconds)


class Apart:
    """A process that does one thing after another; if it ends, the next thing gets a new one.

    A context manager, which ends the process. What one piece of work leaves in the process, as
    the trace of a network, is there for the next.

    Parameters
    ----------
    processor_seconds, running
        As `done_apart` takes them.
    threads
        As `cte_dask.inference.forked.forking` takes them.
    """

    def __init__(
        self,
        *,
        processor_seconds: float | None = None,
        running: set[Any] | None = None,
        threads: int = 1,
    ) -> None:
        self._threads = threads
        self._processor_seconds = processor_seconds
        self._running = set() if running is None else running
        self._process: Any = None
        self._connection: Any = None
        self._folder = ""
        self._left = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def do(self, work: Callable[[Path], T], *, seconds: float) -> T:
        """Do some work and return what it gives; otherwise as `done_apart`."""
        if self._process is None:
            self._start()
        process, folder = self._process, self._folder
        answer = None
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._connection.send(work)
                answer = _answer(self._connection, process, seconds)
        finally:
            if answer is None:
                _kill(process)
                speech = Path(folder, SPEECH)
                said = speech.read_text(errors="replace") if speech.exists() else ""
                self._end()
        if answer is None:
            raise EndedError(_ending(process.exitcode, said, seconds, self._processor_seconds))
        result, error = answer
        if error:
            raise FailedError(error)
        return result  # type: ignore[no-any-return]

    def _start(self) -> None:
        context = forking(NETWORKS, self._threads)
        with ExitStack() as undone:  # what is stopped here leaves nothing
            folder = undone.enter_context(tempfile.TemporaryDirectory())
            here, there = map(undone.enter_context, context.Pipe())
            arguments = there, self._processor_seconds, folder
            process = context.Process(target=_main, args=arguments)
            with STARTS:
                process.start()
            there.close()
            self._process, self._connection, self._folder = process, here, folder
            self._running.add(process)
            self._left = undone.pop_all()

    def _end(self) -> None:
        if self._process is None:
            return
        self._running.discard(self._process)
        _kill(self._process)
        self._left.close()
        self._process = None


def end_all(running: set[Any]) -> None:
    """End processes that somebody else waits for."""
    for process in tuple(running):
        _kill(process)


SPEECH = "speech"


def _answer(receiver: Connection, process: Any, seconds: float) -> tuple[Any, str] | None:
    """Return what a process sends; None if it ends, or goes on too long, without."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if receiver.poll(0.1):
            with suppress(EOFError):
                answer: tuple[Any, str] = receiver.recv()
                return answer
        with STARTS:
            if not process.is_alive():
                break
    return None


def _ending(code: int | None, said: str, seconds: float, processor_seconds: float | None) -> str:
    if code is None or code == -signal.SIGKILL:
        return f"gave no answer within {seconds:g} s"
    if hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU:
        return f"gave no answer in {processor_seconds:g} s of processor time"
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"ended with exit code {code}" + (f": {lines[-1][:300]}" if lines else "")


def _kill(process: Any) -> None:
    """End the process and whatever it started: they are a session of their own."""
    with suppress(ProcessLookupError, PermissionError, AttributeError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    with STARTS:
        process.kill()
    wait([process.sentinel])
    with STARTS:
        process.join()


def _main(connection: Connection, processor_seconds: float | None, folder: str) -> None:
    try:
        _go_apart(processor_seconds, os.path.join(folder, SPEECH))
    except FileNotFoundError:  # whoever started this was stopped meanwhile
        return
    while True:
        try:
            work = connection.recv()
            answer = work(Path(folder)), ""
        except EOFError:
            return
        except FOREIGN as error:
            answer = None, reason(error)
        _forget_speech()
        connection.send(answer)


def _forget_speech() -> None:
    """Drop what was said during work that is done: the next work may end without a word."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.ftruncate(1, 0)


def _go_apart(processor_seconds: float | None, speech: str) -> None:
    """Become a session of one's own with limited processor time, and speak into a file."""
    hear_interrupts()
    if hasattr(os, "setsid"):
        import resource

        os.setsid()
        if processor_seconds is not None:
            limit = max(1, round(processor_seconds))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(speech, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
