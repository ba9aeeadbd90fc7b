"""``cte report``: a run as one HTML file."""

from __future__ import annotations

from typing import Annotated

import typer

from cte_dask.console import clear_errors, console_of, teller
from cte_dask.options import Quiet

__all__ = ["report"]


def report(
    run: Annotated[str, typer.Argument(help="Folder or URL of a run.")],
    out: Annotated[
        str | None, typer.Option(help="The file; by default report.html in the run.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="A calibration.json or its folder; by default the run's, if it has one."),
    ] = None,
    gallery: Annotated[
        int, typer.Option(help="Best models whose tiles are predicted again to be looked at.")
    ] = 3,
    quiet: Quiet = False,
) -> None:
    """Write a run's report: one HTML file that needs no network."""
    with clear_errors():
        from cte_dask.report.html import write_report

        path = write_report(
            run,
            out=out,
            calibration=calibration,
            gallery_models=gallery,
            tell=teller(console_of(quiet)),
        )
        typer.echo(path)
