"""Console of every command: errors as one clear line, progress on standard error, signals.

Standard output holds the result alone: what models print meanwhile goes to standard error.

SIGTERM and SIGUSR1, with which a batch system stops a job, end a command as Ctrl-C does.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["clear_errors", "console_of", "importing", "result_alone", "stoppable", "teller"]

# a program that ends need not look through all that PyTorch consists of for cycles to take apart
atexit.register(gc.freeze)

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


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage meanwhile: what is imported is none, and the search takes a while."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # what is there counts as old from now on, without a search through it for each age
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()


BAD_INPUT = 2


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn bad input into one line and exit code 2; Ctrl-C, SIGTERM and SIGUSR1 into 130."""
    try:
        with stoppable(), libraries_warn_nobody():
            yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("CTE_TRACEBACK"):
            raise
        from cte_dask.errors import reason
        from cte_dask.results.provenance import shown_urls

        typer.echo(f"error: {shown_urls(reason(error))}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted before any block was scored", err=True)
        raise typer.Exit(130) from None


@contextmanager
def libraries_warn_nobody() -> Iterator[None]:
    """Show no warnings of libraries, which speak to developers; who asks Python for them gets them.

    What a user should know is said by our own messages. Warnings that are made errors stay errors.
    """
    if sys.warnoptions or os.environ.get("CTE_TRACEBACK"):
        yield
        return
    before = warnings.showwarning
    warnings.showwarning = lambda *_, **__: None
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def result_alone() -> Iterator[None]:
    """Send to standard error what models and libraries print, here and in processes started here.

    Python's ``print`` goes by `sys.stdout`, compiled code and new processes by file descriptor 1.
    """
    if sys.stdout is None:  # closed by whoever started the command
        yield
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(real, 1)
        os.close(real)


def console_of(quiet: bool) -> Console:
    """Return standard error as a console; a quiet one shows nothing."""
    from cte_dask.report.terminal.consoles import plain_console

    return plain_console(stderr=True, quiet=quiet)


def teller(console: Console) -> Callable[[str], None]:
    """Return a function that writes one dim line of progress on a console."""
    from cte_dask.results.provenance import shown_urls

    return lambda line: console.print(shown_urls(line), style="dim", highlight=False)
