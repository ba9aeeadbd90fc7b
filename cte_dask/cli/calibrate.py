"""The command ``cte calibrate``."""

from __future__ import annotations

from typing import Annotated

import typer

from cte_dask.cli.console import clear_errors, console_of, teller
from cte_dask.cli.options import (
    METRICS_HELP,
    STRENGTHS_HELP,
    Anonymous,
    Axes,
    Bank,
    Batch,
    Border,
    Channel,
    Cluster,
    Device,
    JsonOption,
    Level,
    Mask,
    Precision,
    Quiet,
    Roi,
    Seed,
    Target,
    Threads,
    TileOption,
    Time,
    Workers,
    settings,
    target_options,
)

__all__ = ["calibrate"]


def calibrate(
    target: Target,
    bank: Bank,
    out: Annotated[str, typer.Option(help="Folder or URL that the curve is written to.")],
    level: Level = "auto",
    axes: Axes = None,
    channel: Channel = None,
    time: Time = None,
    roi: Roi = None,
    mask: Mask = None,
    anonymous: Anonymous = False,
    tile: TileOption = None,
    perturb: Annotated[
        str,
        typer.Option(
            help=f"What is disturbed: kind, or kind:low:high:number of strengths. {STRENGTHS_HELP}."
        ),
    ] = "dropout",
    strengths: Annotated[
        str | None, typer.Option(help="Strengths to try, such as 0.05,0.1,0.2.")
    ] = None,
    metric: Annotated[str, typer.Option(help=METRICS_HELP)] = "nhd",
    pilot_tiles: Annotated[int, typer.Option(help="Tiles to try the strengths on.")] = 64,
    seed: Seed = 0,
    repeats: Annotated[
        int | None,
        typer.Option(help="Perturbed runs of each strength; by default 4 of random kinds, else 1."),
    ] = None,
    border: Border = 0,
    cluster: Cluster = "local",
    workers: Workers = None,
    threads: Threads = 1,
    batch: Batch = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop the curve that is there.")
    ] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Choose a perturbation's strength on a pilot of the target."""
    with clear_errors():
        from cte_dask.ranking.calibration.calibrate import calibrate_target
        from cte_dask.report.calibration import print_calibration

        found = calibrate_target(
            target_options(
                target,
                level=level,
                axes=axes,
                channel=channel,
                time=time,
                roi=roi,
                mask=mask,
                anonymous=anonymous,
            ),
            bank,
            out,
            perturb=perturb,
            strengths=strengths,
            cluster=cluster,
            workers=workers,
            overwrite=overwrite,
            metric=metric,
            pilot_tiles=pilot_tiles,
            tell=teller(console_of(quiet)),
            warn=lambda line: typer.echo(line, err=True),
            **settings(
                None,
                None,
                tile,
                None,
                seed=seed,
                repeats=repeats,
                border=border,
                threads=threads,
                batch=batch,
                device=device,
                precision=precision,
            ),
        )
        print_calibration(found, as_json=as_json)
    raise typer.Exit(0 if found.complete else 3)
