"""``cte suggest``: the few tiles whose labels would decide the order, as files to draw into."""

from __future__ import annotations

from typing import Annotated

import typer

from cte_dask.cli.console import clear_errors, console_of, teller
from cte_dask.cli.options import JsonOption, Quiet, Run

__all__ = ["suggest"]


def suggest(
    run: Run,
    tiles: Annotated[int, typer.Option(help="How many tiles to label.")] = 5,
    out: Annotated[
        str | None, typer.Option(help="Folder of the files; by default suggestion in RUN.")
    ] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Write out the few tiles whose labels would decide the order."""
    with clear_errors():
        from cte_dask.ranking.suggest import suggest_tiles
        from cte_dask.report.terminal.suggestion import print_suggestion

        suggestion = suggest_tiles(run, tiles, out, tell=teller(console_of(quiet)))
        print_suggestion(suggestion, as_json=as_json)
