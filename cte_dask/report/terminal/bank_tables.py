"""Tables of a whole bank: similarity of its models, their dendrogram, the combined ranking."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from cte_dask.consistency.bank_agreement import Similarity
    from cte_dask.ranking.combination import Combined, CombinedModel
    from cte_dask.ranking.rank import Ranking

__all__ = ["combined_table", "dendrogram", "print_combined", "print_similarity", "similarity_table"]

WIDTH = 24
MOST_COLUMNS = 24


def similarity_table(similarity: Similarity) -> Table:
    """Return the overlaps of all pairs in per cent, models in the order of the dendrogram."""
    order = similarity.order()
    table = Table()
    table.add_column("")
    table.add_column("model")
    for number in range(1, len(order) + 1):
        table.add_column(str(number), justify="right")
    for number, model in enumerate(order, start=1):
        cells = [_percent(similarity.matrix[model, other]) for other in order]
        table.add_row(str(number), Text(similarity.names[model]), *cells)
    return table


def print_similarity(ranking: Ranking, console: Console) -> None:
    """Print the similarity of the models, if the ranking has it and there are several."""
    similarity = ranking.similarity
    if similarity is None or len(similarity.names) < 2:
        return
    if len(similarity.names) <= MOST_COLUMNS:
        console.print(Text("Overlap of the models' predictions (median of tiles, %)"))
        console.print(similarity_table(similarity))
    console.print(Text("Dendrogram of the predictions, most alike joined first"))
    console.print(Text(dendrogram(similarity)))


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f}"


def dendrogram(similarity: Similarity, *, width: int = WIDTH) -> str:
    """Draw the average linkage of the models, distances growing to the right.

    Parameters
    ----------
    similarity
        The models and their linkage.
    width
        Characters of the distance axis, 0 to 1 - (overlap of the last join).

    Returns
    -------
    str
        One line a model.
    """
    order, tree = similarity.order(), similarity.linkage
    models = len(order)
    longest = max(len(name) for name in similarity.names)
    lines = [[" "] * (width + 2) for _ in order]
    row = {model: i for i, model in enumerate(order)}
    start = dict.fromkeys(row, 0)
    top = max((float(r[2]) for r in tree), default=0.0)
    for number, (left, right, distance, _) in enumerate(tree):
        # The last join reaches the full width; joins at distance 0 (copies) stay in column 1.
        column = 1 + round(width * float(distance) / top) if top > 0 else 1
        ends = sorted((int(left), int(right)), key=lambda n: row[n])
        for node in ends:
            line = lines[row[node]]
            line[start[node] : column] = ["─"] * max(0, column - start[node])
        high, low = (row[node] for node in ends)
        lines[high][column], lines[low][column] = "┐", "┘"
        # Lines between the two belong to their clusters, whose own joins lie further left.
        for between in range(high + 1, low):
            lines[between][column] = "│"
        new = models + number
        # A joined cluster continues on its upper line.
        row[new], start[new] = high, column + 1
    names = (similarity.names[model].ljust(longest) for model in order)
    return "\n".join(f"{n} {''.join(line).rstrip()}" for n, line in zip(names, lines, strict=True))


def combined_table(combined: Combined) -> Table:
    """Return the combined ranking, a column a family."""
    title = f"Combined ranking (Kendall's W of the families {combined.kendall_w:.2f})"
    table = Table(title=title, title_justify="left")
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
    """Print the combined ranking, if there is one, with its warnings.

    Parameters
    ----------
    ranking
        The ranking.
    results, notes
        Consoles for the table, and for the warnings.
    """
    if ranking.combined is None:
        return
    results.print(combined_table(ranking.combined))
    if ranking.combined.left_out:
        left = ", ".join(ranking.combined.left_out)
        notes.print(Text(f"not combined, for not every model supports it: {left}"))
    if ranking.combined.warning:
        notes.print(Text(f"warning: {ranking.combined.warning}"), style="yellow")
