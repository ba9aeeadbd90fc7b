"""``cte doctor``: whether this machine is ready, and what to do where it is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cte_dask.console import clear_errors
from cte_dask.options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

    from cte_dask.doctor import Finding

__all__ = ["doctor"]

SIGNS = {"ok": "✓", "absent": "–", "bad": "✗"}
BAD = 2


def doctor(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]", help="Path or URL of a target, to see whether it opens."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what this machine has, and whether a target opens."""
    with clear_errors():
        from cte_dask.doctor import examine
        from cte_dask.report.terminal import output

        found = examine(url)
        if as_json:
            print(json.dumps([asdict(f) for f in found], indent=1))
        else:
            output().print(_table(found))
    raise typer.Exit(BAD if any(f.state == "bad" for f in found) else 0)


def _table(found: list[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="cte doctor", title_justify="left")
    for heading in ("", "what", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    group = found[0].group
    for finding in found:
        if finding.group != group:
            table.add_section()
            group = finding.group
        cells = (SIGNS[finding.state], finding.name, finding.told, finding.remedy)
        table.add_row(*map(Text, cells))
    return table
