"""The combined ranking as a table: every family of evidence stays visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from cte_dask.combination import Combined, CombinedModel
    from cte_dask.ranking import Ranking

__all__ = ["combined_table", "print_combined"]


def combined_table(combined: Combined) -> Table:
    """Return the combined ranking, a column a family."""
    told = f"Combined ranking (Kendall's W of the families {combined.kendall_w:.2f})"
    table = Table(title=told, title_justify="left")
    for heading in ("rank", "model"):
        table.add_column(heading)
    for heading in ("95 % ranks", "combined", "95 % interval", *combined.families):
        table.add_column(heading, justify="right")
    for name, model in combined.models.items():
        table.add_row(*_row(name, model))
    return table


def _row(name: str, model: CombinedModel) -> list[str | Text]:
    return [
        str(model.rank),
        Text(name),
        f"{model.rank_low} – {model.rank_high}",
        f"{model.score:.3f}",
        f"{model.low:.3f} – {model.high:.3f}",
        *(f"{value:.2f}" for value in model.families.values()),
    ]


def print_combined(ranking: Ranking, results: Console, notes: Console) -> None:
    """Print the combined ranking, where there is one, and what to know before trusting it.

    Parameters
    ----------
    ranking
        The ranking.
    results, notes
        Where the table goes, and the warning.
    """
    if ranking.combined is None:
        return
    results.print(combined_table(ranking.combined))
    if ranking.combined.left_out:
        left = ", ".join(ranking.combined.left_out)
        notes.print(Text(f"not combined, for not every model supports it: {left}"))
    if ranking.combined.warning:
        notes.print(Text(f"warning: {ranking.combined.warning}"), style="yellow")
