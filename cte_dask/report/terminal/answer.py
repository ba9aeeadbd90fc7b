"""The answer of a ranking in a line or two: which model, how good it will be, or that none fits."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from rich.text import Text

from cte_dask.engine.racing.decision import listed
from cte_dask.ranking.transfer import F1_ERROR
from cte_dask.report.terminal.numbers import shown_interval, shown_number

if TYPE_CHECKING:
    from rich.console import Console

    from cte_dask.ranking.rank import Ranking

__all__ = ["counted_tiles", "few_labels", "print_answer"]


def print_answer(ranking: Ranking, console: Console, *, run: str = "RUN") -> None:
    """Print the answer in a line: which model, how good it will be, or that none will do.

    Parameters
    ----------
    ranking
        The ranking.
    console
        Where to.
    run
        Folder or URL of the run, for what to do next.
    """
    best = next((m for m in ranking.models if m.rank is not None and not m.degenerate), None)
    if best is None or best.verdict is None:
        console.print(Text("No model of this bank segments anything here."), style="bold red")
        return
    f1, few = best.verdict.estimated_f1, few_labels(run)
    labelled = ranking.bank.labelled if ranking.primary == ranking.bank.by else 0
    if ranking.warning:
        console.print(
            Text(f"No model of this bank can be trusted here: {ranking.warning}."), style="bold red"
        )
        console.print(Text(f"The best of them is {best.name}. {REMEDIES} {few}"))
    elif (ranking.primary == "transfer" or labelled) and not math.isnan(f1.value):
        expected = f"an F1 of {shown_number(f1.value, 2)} ({shown_interval(f1.low, f1.high, 2)})"
        by = f", corrected by {counted_tiles(labelled)}" if labelled else ""
        console.print(Text(f"{best.name}: expected to reach {expected}{by}."), style="bold")
        if ranking.as_good:
            names = listed(ranking.as_good)
            console.print(
                Text(f"As good, as far as estimates tell (±{F1_ERROR:g}): {names}. {few}")
            )
    else:
        console.print(Text(f"{best.name} is the most consistent."), style="bold")


REMEDIES = (
    "Try other magnifications (--scales 0.25,0.5,1,2), another --channel or --level, or a larger "
    "bank."
)


def few_labels(run: str) -> str:
    """Return what to do where no number without labels decides.

    Parameters
    ----------
    run
        Folder or URL of the run.
    """
    return f"A few labelled tiles decide: cte suggest {shlex.quote(run)}."


def counted_tiles(labelled: int) -> str:
    """Return a number of labelled tiles in words.

    Parameters
    ----------
    labelled
        How many.
    """
    return f"{labelled} labelled tile{'s' if labelled != 1 else ''}"
