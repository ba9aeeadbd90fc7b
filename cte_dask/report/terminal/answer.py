"""The answer of a ranking in a line or two: which model, how good it will be, or that none fits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from cte_dask.engine.racing.decision import listed
from cte_dask.ranking.transfer import F1_ERROR
from cte_dask.report.terminal.numbers import shown_interval, shown_number

if TYPE_CHECKING:
    from rich.console import Console

    from cte_dask.ranking.rank import Ranking

__all__ = ["print_answer"]


def print_answer(ranking: Ranking, console: Console) -> None:
    """Print the answer in a line: which model, how good it will be, or that none will do.

    Parameters
    ----------
    ranking
        The ranking.
    console
        Where to.
    """
    best = next((m for m in ranking.models if m.rank is not None and not m.degenerate), None)
    if best is None or best.verdict is None:
        console.print(Text("No model of this bank segments anything here."), style="bold red")
        return
    f1 = best.verdict.estimated_f1
    if ranking.warning:
        console.print(
            Text(f"No model of this bank can be trusted here: {ranking.warning}."), style="bold red"
        )
        console.print(Text(f"The best of them is {best.name}. {REMEDIES}"))
    elif ranking.primary == "transfer" and not math.isnan(f1.value):
        expected = f"an F1 of {shown_number(f1.value, 2)} ({shown_interval(f1.low, f1.high, 2)})"
        console.print(Text(f"{best.name}: expected to reach {expected}."), style="bold")
        if ranking.as_good:
            names = listed(ranking.as_good)
            console.print(Text(f"As good, as far as estimates tell (±{F1_ERROR:g}): {names}."))
    else:
        console.print(Text(f"{best.name} is the most consistent."), style="bold")


REMEDIES = (
    "Try other magnifications (--scales 0.25,0.5,1,2), another --channel or --level, a larger "
    "bank, or label a few tiles."
)
