"""The command ``cte calibrate``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from cte_dask.cli.console import clear_errors, console_of, result_alone, teller
from cte_dask.cli.options import Bank, JsonOption, Quiet, expanded
from cte_dask.engine.clusters import ClusterOptions
from cte_dask.perturb import usual_strengths
from cte_dask.ranking.options import CalibrationOptions
from cte_dask.scoring.settings import UNITS_HELP, TargetOptions

__all__ = ["calibrate"]


@expanded
def calibrate(
    target: TargetOptions,
    bank: Bank,
    out: Annotated[str, typer.Option(help="Folder or URL that the curve is written to.")],
    options: CalibrationOptions,
    cluster: ClusterOptions,
    perturb: Annotated[
        str,
        typer.Option(
            help="What is disturbed: kind, or kind:low:high:number of strengths. Kinds and usual "
            f"strengths: {usual_strengths(calibrated=True)}. {UNITS_HELP}"
        ),
    ] = "dropout",
    strengths: Annotated[
        str | None, typer.Option(help="Strengths to try, such as 0.05,0.1,0.2.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop the curve that is there.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Choose a perturbation's strength on a pilot of the target."""
    with clear_errors():
        from cte_dask.ranking.calibration.calibrate import calibrate_target, parse_grid
        from cte_dask.report.calibration import print_calibration, write_curve

        kind, grid = parse_grid(perturb, strengths)
        options = replace(options, kind=kind, grid=grid, tell=teller(console_of(quiet)))
        with result_alone():
            calibration = calibrate_target(
                target, bank, out, options, cluster=cluster, overwrite=overwrite
            )
        try:
            write_curve(out, calibration)
        except ImportError as error:  # a picture is worth less than the numbers, which are there
            typer.echo(str(error), err=True)
        print_calibration(calibration, as_json=as_json)
    raise typer.Exit(0 if calibration.complete else 3)
