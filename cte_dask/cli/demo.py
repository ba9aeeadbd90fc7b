"""``cte demo``: rank the example bank on the example target, then compare with the truth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from cte_dask.cli.console import result_alone, teller
from cte_dask.consistency.accuracy import f1_of_counts, foreground_counts
from cte_dask.demo import LABELS, bank_path, write_demo_target
from cte_dask.evaluation.rank_correlation import rank_correlation
from cte_dask.perturb import Draw
from cte_dask.ranking.rank_target import rank_target
from cte_dask.report.terminal.answer import print_answer
from cte_dask.report.terminal.consoles import plain_console
from cte_dask.report.terminal.numbers import shown_number
from cte_dask.report.terminal.progress import shown_on
from cte_dask.report.terminal.tables import output
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from cte_dask.ranking.outcome import Outcome
    from cte_dask.scoring.experiment import Experiment

__all__ = ["median_f1", "run_demo"]


def run_demo(
    out: Path,
    *,
    workers: int | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Write the target, rank the bank on it, and print CTE beside the true F1 of each model.

    Parameters
    ----------
    out
        Folder for the target and the results; results of an earlier demo are dropped.
    workers
        Worker processes; by default one a core.
    as_json
        Print ``{"ranking": …, "f1": {model: …}}`` in place of the table.
    console
        Console for the progress; None shows none.

    Returns
    -------
    Outcome
        The ranking, made without the truth.
    """
    console = console or plain_console(quiet=True)
    out.mkdir(parents=True, exist_ok=True)
    target = out / "target.zarr"
    tell = teller(console)
    tell(f"writing 24 images of fluorescent nuclei, BBBC038: {target}")
    shutil.rmtree(target, ignore_errors=True)
    write_demo_target(target)
    with result_alone():
        outcome = rank_target(
            TargetOptions(str(target)),
            str(bank_path()),
            str(out / "run"),
            workers=workers,
            overwrite=True,
            progress=shown_on(console),
            tell=tell,
        )
    tell("predicting once more, to compare with the truth that a user would not have")
    truth = open_volume(str(target / "labels" / LABELS))
    performance = median_f1(outcome.experiment, truth.read((0, 0, 0), truth.shape))
    if as_json:
        print(json.dumps({"ranking": outcome.result, "f1": performance}, indent=1))
    else:
        _print(output(), outcome, performance, str(out / "run"))
        output().print(f"look at it: cte report {out / 'run'}", highlight=False, markup=False)
    return outcome


def median_f1(experiment: Experiment, truth: NDArray[np.integer]) -> dict[str, float]:
    """Return each model's median F1 of the foreground over tiles, against labels.

    Parameters
    ----------
    experiment
        The run.
    truth
        Labels of the region of interest (z, y, x), 0 the background.

    Returns
    -------
    dict
        Model name → median F1 over the tiles with labels, for evaluation only.
    """
    scores: dict[str, list[float]] = {c.name: [] for c in experiment.candidates}
    no_draws: tuple[Draw, ...] = ()
    for index in range(len(experiment.blocks)):
        for name, tile, (reference,) in predict_tiles(experiment, index, no_draws):
            box = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
            labels = truth[box] > 0
            if labels.any():
                counts = foreground_counts(reference > 0.5, labels)
                scores[name].append(float(f1_of_counts(*counts)))
    return {name: float(np.median(values)) for name, values in scores.items()}


def _print(console: Console, outcome: Outcome, performance: dict[str, float], run: str) -> None:
    ranking = outcome.ranking
    ranked = [m for m in ranking.models if m.rank is not None]
    table = Table(title="The ranking beside the truth", title_justify="left")
    headings = ("rank", "model", ranking.primary, "estimated F1", "95 % interval", "true F1")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    table.add_column("notes")
    for model in ranked:
        assert model.verdict is not None
        f1 = model.verdict.estimated_f1
        table.add_row(
            str(model.rank),
            model.name,
            shown_number(ranking.value(model).value, 3),
            shown_number(f1.value, 2),
            f"{shown_number(f1.low, 2)} – {shown_number(f1.high, 2)}",
            f"{performance[model.name]:.2f}",
            ", ".join(model.flags),
        )
    print_answer(ranking, console, run=run)
    console.print(table)
    truth = [performance[m.name] for m in ranked]
    # Rank 1 is best, so ranks are negated: higher is better on both sides.
    by_rank = rank_correlation([-(m.rank or 0) for m in ranked], truth).kendall
    alone = rank_correlation([m.scores[ranking.score].cte for m in ranked], truth).kendall
    console.print(
        f"Kendall's tau with the true F1: {by_rank:.2f} by the ranking, "
        f"{alone:.2f} by {ranking.score} alone",
        highlight=False,
    )
