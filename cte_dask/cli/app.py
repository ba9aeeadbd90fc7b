"""The command line ``cte``: rank, plan, calibrate, status, models check, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cte_dask.cli.calibrate import calibrate
from cte_dask.cli.console import clear_errors, console_of, importing, teller
from cte_dask.cli.doctor import doctor
from cte_dask.cli.evaluate import evaluate
from cte_dask.cli.maps import maps
from cte_dask.cli.options import (
    JsonOption,
    Quiet,
)
from cte_dask.cli.rank import plan, rank, status
from cte_dask.cli.report import report
from cte_dask.cli.suggest import suggest

if TYPE_CHECKING:
    from cte_dask.inference.trial import ModelReport

__all__ = ["app"]

app = typer.Typer(
    name="cte",
    help="Rank pre-trained segmentation models on an unlabelled volume.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="Look at a model bank.", no_args_is_help=True)
app.add_typer(models, name="models")


app.command()(rank)
app.command()(plan)
app.command()(suggest)
app.command()(calibrate)
app.command()(evaluate)
app.command()(report)
app.command()(maps)
app.command()(doctor)
app.command()(status)


@models.command()
def check(
    bank: Annotated[str, typer.Argument(metavar="BANK", help="Path or URL of bank.yaml.")],
    timeout: Annotated[
        float, typer.Option(help="Seconds of processor time that each model may take.")
    ] = 120.0,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Load each model in a process of its own and run one tile."""
    with clear_errors():
        with importing():
            from cte_dask.inference.check import check_bank
            from cte_dask.inference.confinement import can_forbid_writes
            from cte_dask.models import load_bank
            from cte_dask.report.terminal.tables import print_checks

        models, stopped = load_bank(bank), False
        reports: list[ModelReport] = []
        tell = teller(console_of(quiet))
        if not can_forbid_writes() and not all(model.trust for model in models):
            tell("this system has no Landlock: it cannot forbid models under check to write files")

        def take(report: ModelReport) -> None:
            reports.append(report)
            state = "usable" if report.ok else f"unusable: {report.reason}"
            tell(f"{len(reports)} of {len(models.models)}: {report.name}: {state}")

        try:
            check_bank(models, timeout=timeout, take=take)
        except KeyboardInterrupt:
            stopped = True
        print_checks(reports, as_json=as_json)
        if stopped:
            left = len(models.models) - len(reports)
            typer.echo(f"stopped: {left} of {len(models.models)} models were not checked", err=True)
            raise typer.Exit(130)
    raise typer.Exit(0 if all(r.ok for r in reports) else 3)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the target and the results.")] = Path(
        "demo-run"
    ),
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; by default one a core.")
    ] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Rank the example bank on a simulated volume of known truth."""
    with clear_errors():
        with importing():
            from cte_dask.cli.demo import run_demo

        run_demo(out, workers=workers, as_json=as_json, console=console_of(quiet))


def _version(value: bool) -> None:
    if value:
        from cte_dask import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Rank pre-trained segmentation models on an unlabelled volume."""
