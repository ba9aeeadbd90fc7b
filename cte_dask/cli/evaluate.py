"""``cte evaluate``: a finished run against labels."""

from __future__ import annotations

from typing import Annotated

import typer

from cte_dask.cli.console import clear_errors, console_of, result_alone, teller
from cte_dask.cli.options import JsonOption, Quiet, Run, expanded
from cte_dask.engine.clusters import ClusterOptions

__all__ = ["evaluate"]


@expanded
def evaluate(
    run: Run,
    labels: Annotated[
        str, typer.Option(help="Path or URL of labels: zarr or OME-Zarr, integers, 0 background.")
    ],
    cluster: ClusterOptions,
    bootstrap: Annotated[
        str,
        typer.Option(
            help="What intervals draw: cell, regions of the volume; tile, single tiles, for a "
            "stack of unrelated images."
        ),
    ] = "cell",
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a model that has seen this kind of target in training: evaluated, "
            "but not compared. Repeatable."
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Resamples of the bootstrap of Kendall's tau.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of bootstrap, p-values and sampled voxels.")] = 0,
    ccfv: Annotated[
        bool, typer.Option(help="Compute CCFV too, an estimator that uses the labels.")
    ] = True,
    figures: Annotated[bool, typer.Option(help="Draw the figures.")] = True,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Compare a run's scores with F1 and mAP against labels."""
    with clear_errors():
        from cte_dask.evaluation.evaluate_run import evaluate_run
        from cte_dask.report.evaluation import print_evaluation, write_evaluation
        from cte_dask.report.evaluation_figures import write_figures

        with result_alone():
            evaluation = evaluate_run(
                run,
                labels,
                cluster=cluster.cluster,
                workers=cluster.workers,
                bootstrap=bootstrap,
                resamples=resamples,
                seed=seed,
                features=ccfv,
                leave_out=dict.fromkeys(leave_out or (), "left out by the user"),
                tell=teller(console_of(quiet)),
            )
        write_evaluation(run, evaluation)
        print_evaluation(evaluation, as_json=as_json)
        if figures:
            try:
                write_figures(run, evaluation)
            except ImportError as error:  # a picture is worth less than the numbers
                typer.echo(str(error), err=True)
    raise typer.Exit(3 if any(m.cause for m in evaluation.models) else 0)
