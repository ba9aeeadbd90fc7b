"""Tables that others open: no text of a bank is a formula in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from cte_dask.results.csv_text import csv_text
from cte_dask.results.tables import ranking_csv


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1"])
def test_no_cell_of_a_ranking_is_a_formula(name):
    score = {"cte": -0.5, "low": None, "high": None, "n_tiles": 1, "nan_fraction": 0.0}
    model = {
        "rank": 1,
        "name": name,
        "flags": [name],
        "excluded": None,
        "note": name,
        "foreground_fraction": 0.5,
        "scores": {"nhd@mirror": score},
    }
    rows = list(csv.DictReader(io.StringIO(ranking_csv({"models": [model]}), newline="")))
    assert {rows[0][c] for c in ("model", "flags", "note")} == {f"'{' '.join(name.splitlines())}"}
    assert rows[0]["nhd@mirror cte"] == "-0.5"


def test_other_texts_and_all_numbers_stay_as_they_are():
    assert csv_text([["a=b", -1, 1e-9, None, ""]]) == "a=b,-1,1e-09,,\n"
