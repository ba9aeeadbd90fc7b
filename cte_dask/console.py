"""How every command speaks: errors as one clear line, progress on standard error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from cte_dask.stopping import stoppable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["clear_errors", "console_of", "teller"]

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
        from cte_dask.reason import reason

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
    """Return what writes one dim line of progress on a console."""
    return lambda line: console.print(line, style="dim", markup=False, highlight=False)
