"""``cte report``: a run as one HTML file."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cte_dask.cli.console import clear_errors, console_of, result_alone, teller
from cte_dask.cli.options import JsonOption, Quiet, Run

__all__ = ["report"]


def report(
    run: Run,
    out: Annotated[
        str | None, typer.Option(help="File to write; by default report.html in RUN.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="A calibration.json or its folder; by default the run's, if it has one."),
    ] = None,
    gallery: Annotated[
        int,
        typer.Option(
            help="For how many of the best models tiles are predicted again, to be looked at."
        ),
    ] = 3,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's report: one HTML file that needs no network."""
    with clear_errors():
        from cte_dask.report.html.page import write_report

        with result_alone():
            path = write_report(
                run,
                out=out,
                calibration=calibration,
                gallery_models=gallery,
                tell=teller(console_of(quiet)),
            )
        typer.echo(json.dumps({"report": path}) if as_json else path)
