"""The command line ``cte``: rank, plan, status, models check, demo."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cte_dask.pipeline import TargetOptions

__all__ = ["app"]

BAD_INPUT = 2

app = typer.Typer(
    name="cte",
    help="Rank pre-trained segmentation models on an unlabelled volume.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="Look at a model bank.", no_args_is_help=True)
app.add_typer(models, name="models")

Target = Annotated[str, typer.Argument(help="Path or URL of a zarr array or group, or OME-Zarr.")]
Bank = Annotated[str, typer.Option("--bank", help="Path or URL of bank.yaml.")]
Level = Annotated[str, typer.Option(help="Pyramid level: a number, or auto by voxel size.")]
Axes = Annotated[str | None, typer.Option(help="Axes of a plain array, such as zyx or tczyx.")]
Channel = Annotated[int | None, typer.Option(help="Channel to score, from 0.")]
Time = Annotated[int | None, typer.Option(help="Time point to score, from 0.")]
Roi = Annotated[str | None, typer.Option(help="Region in voxels: z0:z1,y0:y1,x0:x1.")]
Mask = Annotated[str | None, typer.Option(help="Array; tiles without a mask voxel are skipped.")]
TileOption = Annotated[str | None, typer.Option("--tile", help="Tile extent in voxels: z,y,x.")]
Perturb = Annotated[
    list[str] | None,
    typer.Option(help="kind:strength, repeatable; dropout, gaussian, brightness, contrast, gamma."),
]
MetricOption = Annotated[
    list[str] | None, typer.Option("--metric", help="nhd or ei, repeatable; the first one ranks.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Repeats = Annotated[int, typer.Option(help="Perturbed runs of each perturbation.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes; by default one a core.")]
Threads = Annotated[int, typer.Option(help="Threads of inference in each worker.")]
Batch = Annotated[int | None, typer.Option(help="Samples in one forward pass.")]
BlockOption = Annotated[str | None, typer.Option("--block", help="Tiles of a block: z,y,x.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn bad input into one line and exit code 2; Ctrl-C into 130."""
    try:
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


def _console(quiet: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


def _teller(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, style="dim", markup=False, highlight=False)


def _triple(text: str | None, what: str) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        z, y, x = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{what} {text!r} must be three whole numbers z,y,x") from None
    if min(z, y, x) < 1:
        raise ValueError(f"{what} {text!r} must be at least 1 along z, y and x")
    return z, y, x


def _level(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise ValueError(f"--level {text!r} must be auto or a number from 0")
    return int(text)


def _options(  # the options of a target, as one value
    target: str,
    level: str,
    axes: str | None,
    channel: int | None,
    time: int | None,
    roi: str | None,
    mask: str | None,
) -> TargetOptions:
    from cte_dask.pipeline import TargetOptions

    return TargetOptions(target, _level(level), axes, channel, time, roi, mask)


def _settings(
    perturb: list[str] | None,
    metric: list[str] | None,
    tile: str | None,
    block: str | None,
    **others: Any,
) -> dict[str, Any]:
    given = {
        "perturbations": tuple(perturb) if perturb else None,
        "metrics": tuple(metric) if metric else None,
        "tile": _triple(tile, "--tile"),
        "block": _triple(block, "--block"),
    }
    return {**{name: value for name, value in given.items() if value is not None}, **others}


@app.command()
def rank(
    target: Target,
    bank: Bank,
    out: Annotated[str, typer.Option(help="Folder or URL of the results.")],
    level: Level = "auto",
    axes: Axes = None,
    channel: Channel = None,
    time: Time = None,
    roi: Roi = None,
    mask: Mask = None,
    tile: TileOption = None,
    perturb: Perturb = None,
    metric: MetricOption = None,
    seed: Seed = 0,
    repeats: Repeats = 1,
    cluster: Annotated[
        str, typer.Option(help="none, local, tcp://HOST:PORT or tls://HOST:PORT.")
    ] = "local",
    workers: Workers = None,
    threads: Threads = 1,
    batch: Batch = None,
    block: BlockOption = None,
    device: Device = "auto",
    precision: Precision = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what OUT holds.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop what OUT holds.")] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Rank the models of a bank on an unlabelled target."""
    with _clear_errors():
        from cte_dask.pipeline import rank_target
        from cte_dask.report.terminal import print_outcome

        console = _console(quiet)
        outcome = rank_target(
            _options(target, level, axes, channel, time, roi, mask),
            bank,
            out,
            cluster=cluster,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            console=console,
            tell=_teller(console),
            **_settings(
                perturb,
                metric,
                tile,
                block,
                seed=seed,
                repeats=repeats,
                threads=threads,
                batch=batch,
                device=device,
                precision=precision,
            ),
        )
        print_outcome(outcome, out, as_json=as_json, console=console)
    raise typer.Exit(outcome.exit_code)


@app.command()
def plan(
    target: Target,
    bank: Bank,
    level: Level = "auto",
    axes: Axes = None,
    channel: Channel = None,
    time: Time = None,
    roi: Roi = None,
    mask: Mask = None,
    tile: TileOption = None,
    perturb: Perturb = None,
    metric: MetricOption = None,
    repeats: Repeats = 1,
    workers: Workers = None,
    threads: Threads = 1,
    batch: Batch = None,
    block: BlockOption = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Print what ranking would read, compute and store, without doing it."""
    with _clear_errors():
        from cte_dask.cluster import default_workers
        from cte_dask.pipeline import plan_target
        from cte_dask.report.terminal import print_plan

        experiment, costs = plan_target(
            _options(target, level, axes, channel, time, roi, mask),
            bank,
            tell=_teller(_console(quiet)),
            **_settings(
                perturb,
                metric,
                tile,
                block,
                repeats=repeats,
                workers=workers or default_workers(threads),
                threads=threads,
                batch=batch,
                device=device,
                precision=precision,
            ),
        )
        print_plan(experiment, costs, as_json=as_json)


@app.command()
def status(run: Annotated[str, typer.Argument(help="Folder or URL of a run.")]) -> None:
    """Tell how far a run has come and what failed."""
    with _clear_errors():
        from cte_dask.report.terminal import print_status
        from cte_dask.scores import open_scores

        print_status(open_scores(f"{run}/scores.zarr"))


@models.command()
def check(
    bank: Annotated[str, typer.Argument(help="Path or URL of bank.yaml.")],
    timeout: Annotated[float, typer.Option(help="Seconds each model may take.")] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Load each model in a process of its own, run one tile, and tell what was found."""
    with _clear_errors():
        from cte_dask.models import load_bank
        from cte_dask.models.check import check_bank
        from cte_dask.report.terminal import print_checks

        reports = check_bank(load_bank(bank), timeout=timeout)
        print_checks(reports, as_json=as_json)
    raise typer.Exit(0 if all(r.ok for r in reports) else 3)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the target and the results.")] = Path(
        "demo-run"
    ),
    workers: Workers = None,
) -> None:
    """Rank the example bank on a simulated volume and compare with the truth."""
    with _clear_errors():
        from cte_dask.demo.run import run_demo

        run_demo(out, workers=workers)


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


if __name__ == "__main__":
    app()
