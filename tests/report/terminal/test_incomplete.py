"""Why a run is incomplete: each line is true, and offers what helps and nothing else."""

from __future__ import annotations

import pytest

from cte_dask.report.terminal.incomplete import incomplete_lines, number_of


def result(total: int, done: int, failed: int, **more: int) -> dict[str, object]:
    blocks = {"total": total, "done": done, "failed": failed, **more}
    return {"complete": False, "blocks": blocks}


def test_where_only_a_model_is_excluded_no_block_is_missing_and_nothing_resumes():
    [line] = incomplete_lines(result(8, 8, 0), ["broken"])
    assert line.startswith("incomplete: 1 model of the bank was excluded and has no rank (broken)")
    assert "block" not in line
    assert "--resume" not in line


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (result(8, 7, 0), ["1 block of 8 was not scored", "--resume scores it"]),
        (result(8, 5, 0), ["3 blocks of 8 were not scored", "--resume scores them"]),
        (result(8, 7, 1), ["1 block of 8 failed", "without it", "cte status", "--resume"]),
        (result(900, 3, 2, sampled=5), ["2 blocks of 5 failed", "without them"]),
    ],
)
def test_blocks_are_counted_in_words_with_what_helps(blocks, words):
    [line] = incomplete_lines(blocks, [])
    for word in words:
        assert word in line


def test_each_reason_has_a_line_and_a_complete_run_has_none():
    assert len(incomplete_lines(result(8, 5, 1), ["a", "b"])) == 3
    assert (
        "2 models of the bank were excluded and have"
        in incomplete_lines(result(8, 8, 0), ["a", "b"])[0]
    )
    assert incomplete_lines({"complete": True, "blocks": {}}, []) == []


def test_one_is_one_and_none_are_many():
    assert [number_of(n, "tile") for n in (0, 1, 1200)] == ["0 tiles", "1 tile", "1,200 tiles"]
