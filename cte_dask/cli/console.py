"""Console of every command: errors as one clear line, progress on standard error, signals.

SIGTERM and SIGUSR1, with which a batch system stops a job, end a command as Ctrl-C does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["clear_errors", "console_of", "stoppable", "teller"]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals of batch systems: at the end, at a preemption, or a while before the walltime."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first of `SIGNALS`, and ignore the rest.

    The command then has the time that the batch system grants to drop its block and to write its
    results; a second signal must not cut that short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    from cte_dask.errors import STOPPED

    STOPPED.clear()
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _interrupt(number, frame)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    from cte_dask.errors import STOPPED

    STOPPED.set()
    raise KeyboardInterrupt(signal.Signals(number).name)


BAD_INPUT = 2


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn bad input into one line and exit code 2; Ctrl-C, SIGTERM and SIGUSR1 into 130."""
    try:
        with stoppable():
            yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("CTE_TRACEBACK"):
            raise
        from cte_dask.errors import reason

        typer.echo(f"error: {reason(error)}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted before any block was scored", err=True)
        raise typer.Exit(130) from None


def console_of(quiet: bool) -> Console:
    """Return standard error as a console; a quiet one shows nothing."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


def teller(console: Console) -> Callable[[str], None]:
    """Return a function that writes one dim line of progress on a console."""
    return lambda line: console.print(line, style="dim", markup=False, highlight=False)
