"""What ``cte suggest`` prints: the tiles, where they lie, whom they tell apart, how to go on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cte_dask.report.terminal.tables import output

if TYPE_CHECKING:
    from cte_dask.ranking.suggest import Suggestion

__all__ = ["print_suggestion"]


def print_suggestion(suggestion: Suggestion, *, as_json: bool) -> None:
    """Print tiles to label on standard output.

    Parameters
    ----------
    suggestion
        The tiles.
    as_json
        Print JSON in place of the table.
    """
    if as_json:
        print(json.dumps(suggestion.to_dict(), indent=1))
        return
    table = Table(title="Tiles to label", title_justify="left")
    table.add_column("tile", justify="right")
    table.add_column("first voxel (z, y, x)")
    table.add_column("tells apart")
    for tile in suggestion.tiles:
        place = ", ".join(map(str, tile.start))
        table.add_row(str(tile.tile), place, Text(" and ".join(tile.models)))
    console = output()
    console.print(table)
    if suggestion.note:
        console.print(Text(suggestion.note), style="yellow")
    console.print(Text(f"Draw into the label files in {suggestion.folder} (README.txt), then:"))
    print(suggestion.command)
