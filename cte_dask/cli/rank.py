"""``cte rank``, ``cte plan``, ``cte status``."""

from __future__ import annotations

from typing import Annotated

import typer

from cte_dask.cli.console import clear_errors, console_of, teller
from cte_dask.cli.options import (
    Anonymous,
    Axes,
    Bank,
    Batch,
    BlockOption,
    Border,
    Channel,
    Cluster,
    Combine,
    Delta,
    Device,
    Epsilon,
    Exhaustive,
    FullOrder,
    JsonOption,
    Level,
    Mask,
    MetricOption,
    Perturb,
    Precision,
    Quiet,
    Repeats,
    Roi,
    Run,
    Seed,
    ShardOption,
    Target,
    Threads,
    TileOption,
    Time,
    Top,
    Until,
    Workers,
    settings,
    target_options,
)


def rank(
    target: Target,
    bank: Bank,
    out: Annotated[str, typer.Option(help="Folder or URL of the results, RUN for other commands.")],
    level: Level = "auto",
    axes: Axes = None,
    channel: Channel = None,
    time: Time = None,
    roi: Roi = None,
    mask: Mask = None,
    anonymous: Anonymous = False,
    tile: TileOption = None,
    perturb: Perturb = None,
    metric: MetricOption = None,
    seed: Seed = 0,
    repeats: Repeats = 1,
    border: Border = 0,
    combine: Combine = False,
    until: Until = None,
    top: Top = None,
    full_order: FullOrder = False,
    delta: Delta = None,
    epsilon: Epsilon = None,
    exhaustive: Exhaustive = False,
    cluster: Cluster = "local",
    workers: Workers = None,
    threads: Threads = 1,
    batch: Batch = None,
    block: BlockOption = None,
    device: Device = "auto",
    precision: Precision = "auto",
    shard: ShardOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that is there.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop what is there.")] = False,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Rank the models of a bank on an unlabelled target.

    Exit codes: 0 complete, 2 bad input, 3 finished but incomplete (blocks failed, models excluded),
    130 interrupted. Whatever ended it, the same command with --resume goes on.
    """
    with clear_errors():
        from cte_dask.engine.jobs import Shard
        from cte_dask.engine.racing.goal import Asked
        from cte_dask.ranking.rank_target import rank_target
        from cte_dask.report.terminal.tables import print_outcome

        console = console_of(quiet)
        outcome = rank_target(
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
            cluster=cluster,
            workers=workers,
            shard=None if shard is None else Shard.parse(shard),
            resume=resume,
            overwrite=overwrite,
            asked=Asked(until, exhaustive, top, full_order, delta, epsilon),
            console=console,
            tell=teller(console),
            **settings(
                perturb,
                metric,
                tile,
                block,
                seed=seed,
                repeats=repeats,
                border=border,
                combine=combine,
                threads=threads,
                batch=batch,
                device=device,
                precision=precision,
            ),
        )
        blocks = outcome.result["blocks"]
        if shard is not None and blocks["done"] + blocks["failed"] < blocks["total"]:
            typer.echo(f"shard {shard}: {blocks['done']} of the run's {blocks['total']} are done")
        else:
            print_outcome(outcome, out, as_json=as_json, console=console)
    raise typer.Exit(outcome.exit_code)


def plan(
    target: Target,
    bank: Bank,
    level: Level = "auto",
    axes: Axes = None,
    channel: Channel = None,
    time: Time = None,
    roi: Roi = None,
    mask: Mask = None,
    anonymous: Anonymous = False,
    tile: TileOption = None,
    perturb: Perturb = None,
    metric: MetricOption = None,
    repeats: Repeats = 1,
    until: Until = None,
    top: Top = None,
    full_order: FullOrder = False,
    exhaustive: Exhaustive = False,
    workers: Workers = None,
    threads: Threads = 1,
    batch: Batch = None,
    block: BlockOption = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Print what ranking would read, compute and store."""
    with clear_errors():
        from cte_dask.engine.anytime import goal_for
        from cte_dask.engine.clusters import default_workers
        from cte_dask.engine.racing.goal import Asked
        from cte_dask.ranking.rank_target import plan_target
        from cte_dask.report.terminal.tables import print_plan

        asked = Asked(until, exhaustive, top, full_order)
        asked.goal(1)  # refuse what cannot be before anything is opened
        experiment, costs = plan_target(
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
            tell=teller(console_of(quiet)),
            **settings(
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
        print_plan(experiment, costs, goal_for(experiment, asked), as_json=as_json)


def status(run: Run, as_json: JsonOption = False) -> None:
    """Tell how far a run has come and what failed."""
    with clear_errors():
        from cte_dask.report.terminal.tables import print_status
        from cte_dask.results.files import read_ranking
        from cte_dask.results.store import open_scores

        print_status(open_scores(f"{run}/scores.zarr"), read_ranking(run), as_json=as_json)
