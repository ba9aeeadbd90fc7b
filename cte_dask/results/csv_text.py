"""Rows as CSV that a spreadsheet may open: texts from outside are no formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["csv_text"]


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Return rows as CSV in which no text is a formula.

    A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@``: before texts that do,
    which come with a bank, stands an apostrophe, which spreadsheets do not show. Numbers stay.

    Examples
    --------
    >>> csv_text([["=1+1", -0.5, None]])
    "'=1+1,-0.5,\n"
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    line = " ".join(cell.splitlines())  # a line of its own could begin with one, too
    return f"'{line}" if line.lstrip().startswith(FORMULA) else line


FORMULA = ("=", "+", "-", "@")
