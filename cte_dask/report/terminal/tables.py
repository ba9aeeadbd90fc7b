"""Output of the commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cte_dask.engine.anytime import most_blocks
from cte_dask.engine.racing.goal import TYPICAL_BLOCKS
from cte_dask.ranking.correction import LABELLED
from cte_dask.report.terminal.answer import counted_tiles, print_answer
from cte_dask.report.terminal.consoles import plain_console
from cte_dask.report.terminal.incomplete import incomplete_lines, number_of
from cte_dask.report.terminal.numbers import shown_interval, shown_number
from cte_dask.results.provenance import shown_url, shown_urls
from cte_dask.results.skipped import TOLD, skipped
from cte_dask.results.store import DONE
from cte_dask.scoring.defaults import WITNESSES
from cte_dask.volume.statistics import not_stored

if TYPE_CHECKING:
    from rich.console import Console

    from cte_dask.consistency.score_names import ScoreName
    from cte_dask.engine.cost import Plan
    from cte_dask.engine.racing.goal import Goal
    from cte_dask.inference.trial import ModelReport
    from cte_dask.ranking.outcome import Outcome
    from cte_dask.ranking.rank import ModelRank, Ranking
    from cte_dask.results.store import Scores
    from cte_dask.scoring.experiment import Experiment

__all__ = [
    "WORKERS",
    "memory",
    "output",
    "plan_table",
    "print_checks",
    "print_outcome",
    "print_plan",
    "print_status",
    "ranking_table",
    "shown_bytes",
    "times",
]

WORKERS = (1, 16, 256)
"""Numbers of workers for which a plan estimates the time."""


def shown_bytes(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def memory(plan: Plan) -> str:
    """Return a worker's memory, where it can be measured, and the bytes of the target in it."""
    worker = f"{shown_bytes(plan.bytes_worker)} a worker, " if plan.bytes_worker else ""
    device = f"{shown_bytes(plan.bytes_device)} of its GPU, " if plan.bytes_device else ""
    return f"{worker}{device}{shown_bytes(plan.bytes_window)} of the target at a time"


def times(plan: Plan) -> str:
    """Return the time that the whole target takes with some numbers of workers."""
    durations = (f"{_duration(3600 * plan.hours(n))} on {n}" for n in WORKERS)
    return f"{', '.join(durations)} workers like this process, if all of it is scored"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    if seconds < 3600:
        return f"{seconds / 60:.2g} min"
    hours = seconds / 3600
    return f"{hours:.2g} h" if hours < 48 else f"{hours / 24:,.0f} days"


PIPE_WIDTH = 140
"""Columns of a table that is written to a file or pipe, which has no width of its own."""


RULES = {
    "transfer": "transfer score: what the others of the bank see, times consistency",
    "cte": "consistency (CTE) over all perturbations: the bank is too small to judge itself",
    "labelled_f1": "estimated F1",
    "labelled_precision": "precision of the objects",
}
"""What ranks, said in words; other rankings are by one score."""


def ranking_table(ranking: Ranking) -> Table:
    """Return the ranking as a table, excluded models with their reasons below."""
    by = RULES.get(ranking.primary, ranking.primary)
    if ranking.primary in LABELLED.values():
        by += f", corrected by {counted_tiles(ranking.bank.labelled)}"
    table = Table(title=f"Ranking by {by}", title_justify="left")
    table.add_column("rank")
    table.add_column("model")
    for heading in (*_columns(ranking), "tiles", "NaN", "foreground"):
        table.add_column(heading, justify="right")
    table.add_column("notes")
    for model in ranking.models:
        table.add_row(*_row(model, ranking))
    return table


def _columns(ranking: Ranking) -> list[str]:
    """Return the headings of what is known of a model: what ranks, and what it is made of."""
    known = [m.verdict for m in ranking.models if m.verdict is not None]
    columns = ["CTE", "95 % interval"]
    if ranking.primary == "transfer":
        columns = ["transfer", "95 % interval", "CTE"]
    elif ranking.primary in LABELLED.values():
        columns = ["CTE"]
    if ranking.primary == "labelled_precision":
        columns = ["precision", "95 % interval", "CTE"]
    elif any(not math.isnan(v.precision.value) for v in known):
        columns.append("objects as others'")
    if any(not math.isnan(v.estimated_f1.value) for v in known):
        columns += ["estimated F1", "95 % of F1"]
    return columns


def _row(model: ModelRank, ranking: Ranking) -> list[str | Text]:
    name, columns = Text(model.name), _columns(ranking)
    if model.verdict is None:
        return ["–", name, *[""] * (len(columns) + 3), Text(f"excluded: {model.excluded}")]
    score, ranks = model.scores[ranking.score], ranking.value(model)
    f1 = model.verdict.estimated_f1
    cells = {
        "transfer": shown_number(ranks.value),
        "precision": shown_number(ranks.value),
        "CTE": shown_number(
            ranks.value if ranking.primary == ranking.score else model.verdict.consistency.value
        ),
        "95 % interval": shown_interval(ranks.low, ranks.high),
        "objects as others'": shown_number(model.verdict.precision.value, 2),
        "estimated F1": shown_number(f1.value, 2),
        "95 % of F1": shown_interval(f1.low, f1.high, 2),
    }
    return [
        str(model.rank),
        name,
        *(cells[column] for column in columns),
        str(score.n_tiles),
        _percent(score.nan_fraction),
        _percent(model.foreground_fraction),
        Text("; ".join(filter(None, (*model.flags, model.note)))),
    ]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def _flops(count: float) -> str:
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if count < 1000:
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    return f"{count:.3g} ZFLOP"


def plan_table(experiment: Experiment, plan: Plan, goal: Goal | None = None) -> Table:
    """Return what a run will read, compute and store, as a table."""
    table, volume = Table(title="Plan", show_header=False, title_justify="left"), experiment.volume
    rows = [
        ("target", f"{shown_url(volume.target)}  {'×'.join(map(str, volume.shape))} (zyx)"),
        ("tiles", f"{plan.tiles:,} of {'×'.join(map(str, experiment.grid.tile))} voxels"),
        ("blocks", f"{plan.blocks:,} of {'×'.join(map(str, plan.block_shape))} voxels"),
        ("reads", f"{shown_bytes(plan.bytes_read)} ({_ratio(plan)} of the target, halos included)"),
        *_anytime_rows(plan, experiment, goal),
        ("memory", memory(plan)),
        ("computes", f"{_flops(plan.flops)} on {experiment.device} in {experiment.precision}"),
        ("takes", times(plan)),
        ("stores", f"{shown_bytes(plan.bytes_stored)} before compression"),
        ("perturbations", ", ".join(p.name for p in experiment.perturbations)),
        ("ranks by", _ranks_by(experiment.rule, experiment.primary, len(experiment.candidates))),
    ]
    if text := not_stored(experiment.volume):
        rows.insert(1, ("mind", text))
    for name, value in rows:
        table.add_row(name, Text(value))
    for cost, candidate in zip(plan.models, experiment.candidates, strict=True):
        passes = f"{_flops(cost.flops)} a tile, {cost.passes} predictions a tile"
        told = "; ".join(filter(None, (passes, candidate.note)))
        table.add_row(Text(f"model {cost.name}"), Text(told))
    for name, why in experiment.excluded.items():
        table.add_row(Text(f"model {name}"), Text(f"excluded: {why}"))
    return table


def _ranks_by(rule: str, primary: ScoreName, models: int) -> str:
    if rule == "consistency":
        return str(primary)
    return RULES["transfer" if models >= WITNESSES else "cte"]


def _anytime_rows(plan: Plan, experiment: Experiment, goal: Goal | None) -> list[tuple[str, str]]:
    """Return the most that an anytime run will read, and what it read in simulations."""
    if goal is None:
        return [("anytime", "no: every block is scored; --until decided may need fewer")]
    most = most_blocks(experiment.blocks, goal, voting=experiment.rule == "transfer")
    rows = [("anytime", f"stops when it is decided, {_share(plan, most)} at most")]
    if goal.seconds is not None:
        rows[0] = ("anytime", f"stops when it is decided, or after {goal.seconds:g} s")
    if goal.top == 1:
        usual, long = (min(most, n) for n in TYPICAL_BLOCKS)
        typical = f"{_share(plan, usual)} in half of our simulations, {long} in three of four"
        rows.append(("typically", typical))
    return rows


def _share(plan: Plan, blocks: int) -> str:
    fraction = blocks / max(plan.blocks, 1)
    read, flops = fraction * plan.bytes_read, fraction * plan.flops
    return f"{blocks:,} blocks ({shown_bytes(read)}, {_flops(flops)})"


def _ratio(plan: Plan) -> str:
    return f"{plan.bytes_read / max(plan.bytes_target, 1):.2f}×"


def print_outcome(outcome: Outcome, out: str, *, as_json: bool, console: Console) -> None:
    """Print a ranking on standard output, and its verdict and notes on the console."""
    if as_json:
        print(json.dumps(outcome.result, indent=1, allow_nan=False))
    else:
        print_answer(outcome.ranking, output(), run=out)
        output().print(ranking_table(outcome.ranking))
    for text in filter(None, map(outcome.result.get, ("not_stored", "doubt"))):
        console.print(Text(text), style="yellow")
    lines = incomplete_lines(outcome.result, [m.name for m in outcome.ranking.models if m.excluded])
    if outcome.decision is not None:
        verdict = outcome.result["verdict"]
        console.print(Text(verdict), style="green" if outcome.decision.decided else "yellow")
        if outcome.result["contradiction"]:
            console.print(Text(outcome.result["contradiction"]), style="yellow")
    for line in lines:
        console.print(Text(line), style="yellow")
    if outcome.decision is not None and not outcome.result["decided"]:
        budget = outcome.result["stopped"] == "budget"
        more = "more blocks or time with --until, " if budget else ""
        console.print(f"--resume goes on: {more}or --exhaustive for all blocks", style="dim")
    for tile, causes in outcome.result.get("label_failures", {}).items():
        why = "; ".join(f"{name}: {cause}" for name, cause in causes.items())
        console.print(Text(f"labelled tile {tile} could not be measured: {why}"), style="yellow")
    console.print(Text(f"results in {shown_url(out)}"), style="dim")


def output() -> Console:
    """Return standard output, wide enough for a table where it is no terminal."""
    console = plain_console()
    return console if console.is_terminal else plain_console(width=max(console.width, PIPE_WIDTH))


def print_plan(
    experiment: Experiment, plan: Plan, goal: Goal | None = None, *, as_json: bool
) -> None:
    """Print what a run will read, compute and store.

    Parameters
    ----------
    experiment, plan
        The run, and all of its blocks.
    goal
        Goal of an anytime run, which may need fewer blocks; None if every block is scored.
    as_json
        Print one JSON document in place of the table.
    """
    if as_json:
        hours = {str(n): plan.hours(n) for n in WORKERS}
        derived = {"flops": plan.flops, "hours": hours, "excluded": dict(experiment.excluded)}
        derived["notes"] = {c.name: c.note for c in experiment.candidates if c.note}
        data = {**asdict(plan), **derived}
        most = plan.blocks if goal is None else min(plan.blocks, goal.blocks or plan.blocks)
        anytime = {"goal": goal and asdict(goal), "most_blocks": most}
        print(json.dumps({**data, "anytime": anytime}, indent=1))
    else:
        output().print(plan_table(experiment, plan, goal))


def print_status(
    scores: Scores, ranking: Mapping[str, Any] | None = None, *, as_json: bool = False
) -> None:
    """Print the progress of a run, its verdict, and the causes of failures.

    Parameters
    ----------
    scores
        Its store.
    ranking
        Content of its ``ranking.json``, if there is one.
    as_json
        Print one JSON document in place of lines.
    """
    status = scores.done()
    counts = {name: int((status == code).sum()) for name, code in DONE.items()}
    failed = [
        {"block": int(index), "model": name, "cause": cause}
        for index in (status == DONE["failures"]).nonzero()[0]
        for name, cause in scores.failures(int(index)).items()
    ]
    verdict, left_out = (ranking or {}).get("verdict"), skipped(scores)
    if as_json:
        blocks = {"total": len(status), **counts}
        document = {"blocks": blocks, "verdict": verdict, "skipped": left_out, "failed": failed}
        print(json.dumps(document, indent=1))
        return
    partial = f"{counts['partial']} without models that had been beaten, "
    print(
        f"{counts['complete']} of {len(status)} blocks complete, "
        f"{counts['failures']} with failures, "
        f"{partial if counts['partial'] else ''}{counts['missing']} missing"
    )
    if verdict is not None:
        print(f"anytime: {verdict}")
    if text := (ranking or {}).get("not_stored"):
        print(text)
    for why, tiles in left_out.items():
        print(f"{number_of(tiles, 'tile')} {TOLD[why]}")
    for one in failed:
        print(f"block {one['block']}, model {one['model']}: {shown_urls(str(one['cause']))}")


def print_checks(reports: Sequence[ModelReport], *, as_json: bool) -> None:
    """Print the reports of a bank's models."""
    if as_json:
        print(json.dumps([asdict(r) for r in reports], indent=1))
        return
    table = Table(title="Models", title_justify="left")
    for heading in ("model", "input → output", "parameters", "halo", "bottleneck", "notes"):
        table.add_column(heading, overflow="fold")
    for report in reports:
        table.add_row(*map(Text, _check_row(report)))
    output().print(table)


def _check_row(report: ModelReport) -> list[str]:
    if not report.ok:
        return [report.name, "unusable", "", "", "", report.reason]
    shapes = [
        "×".join(map(str, shape or ())) for shape in (report.input_shape, report.output_shape)
    ]
    halo = "?" if report.halo is None else ",".join(map(str, report.halo))
    where = ", ".join(report.bottleneck) or report.greybox
    notes = "; ".join(report.notes)
    return [report.name, " → ".join(shapes), f"{report.parameters or 0:,}", halo, where, notes]
