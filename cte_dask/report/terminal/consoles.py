"""The consoles that people read: text from outside is shown as it is, never taken for markup."""

from __future__ import annotations

from rich.console import Console

__all__ = ["plain_console"]


def plain_console(
    *, stderr: bool = False, quiet: bool = False, width: int | None = None
) -> Console:
    """Return a console on which ``[/red]`` and ``:cat:`` in a model's name are just that.

    Parameters
    ----------
    stderr
        Write to standard error in place of standard output.
    quiet
        Show nothing.
    width
        Columns; by default the terminal's.
    """
    return Console(stderr=stderr, quiet=quiet, width=width, markup=False, emoji=False)
