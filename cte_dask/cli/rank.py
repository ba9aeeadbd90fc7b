"""``cte rank``, ``cte plan``, ``cte status``."""

from __future__ import annotations

from dataclasses import replace

import typer

from cte_dask.cli.console import clear_errors, console_of, importing, result_alone, teller
from cte_dask.cli.options import Bank, JsonOption, Out, Quiet, Run, expanded
from cte_dask.ranking.options import PlanOptions, RankOptions
from cte_dask.scoring.settings import TargetOptions

__all__ = ["plan", "rank", "status"]


@expanded
def rank(
    target: TargetOptions,
    bank: Bank,
    out: Out,
    options: RankOptions,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Rank the models of a bank on an unlabelled target.

    Exit codes: 0 complete, 2 bad input, 3 finished but incomplete (blocks failed, models excluded),
    130 interrupted. Whatever ended it, the same command with --resume goes on.
    """
    with clear_errors():
        with importing():
            from cte_dask.ranking.rank_target import rank_with
            from cte_dask.report.terminal.progress import shown_on
            from cte_dask.report.terminal.tables import print_outcome

        console = console_of(quiet)
        options = replace(options, tell=teller(console), progress=shown_on(console))
        with result_alone():
            outcome = rank_with(target, bank, out, options)
        blocks = outcome.result["blocks"]
        if options.shard is not None and blocks["done"] + blocks["failed"] < blocks["total"]:
            state = f"{blocks['done']} of the run's {blocks['total']} are done"
            typer.echo(f"shard {options.shard}: {state}")
        else:
            print_outcome(outcome, out, as_json=as_json, console=console)
    raise typer.Exit(outcome.exit_code)


@expanded
def plan(
    target: TargetOptions,
    bank: Bank,
    options: PlanOptions,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Print what ranking would read, compute and store."""
    with clear_errors():
        with importing():
            from cte_dask.engine.anytime import goal_for
            from cte_dask.ranking.rank_target import plan_target
            from cte_dask.report.terminal.tables import print_plan

        options = replace(options, tell=teller(console_of(quiet)))
        with result_alone():
            experiment, costs = plan_target(target, bank, options)
        print_plan(experiment, costs, goal_for(costs.blocks, options), as_json=as_json)


def status(run: Run, as_json: JsonOption = False) -> None:
    """Tell how far a run has come and what failed."""
    with clear_errors():
        from cte_dask.report.terminal.tables import print_status
        from cte_dask.results.run_folder import RunFolder

        folder = RunFolder(run)
        print_status(folder.open_scores(), folder.read_ranking(), as_json=as_json)
