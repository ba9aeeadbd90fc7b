"""The page that says who waits for what has the numbers of the code, and of the Dask it runs on."""

from __future__ import annotations

import re

import dask
import distributed  # noqa: F401 - its settings
import pytest
from documents.pages import REPOSITORY

from cte_dask.engine.clusters import address, slurm
from cte_dask.engine.clusters.connection import SETTINGS
from cte_dask.inference.check import check_bank
from cte_dask.report.terminal import progress
from cte_dask.storage import retries

PAGE = (REPOSITORY / "docs" / "explanation" / "waiting.md").read_text()
ORDINALS = {3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh"}


def seconds(text: object) -> str:
    return f"{dask.utils.parse_timedelta(str(text)):g} s"


def row(start: str) -> str:
    """The line of a table that begins with some words."""
    [line] = re.findall(rf"^\| {re.escape(start)}[^\n]*", PAGE, re.MULTILINE)
    return line


@pytest.mark.parametrize(
    ("start", "numbers"),
    [
        ("One request to an object store", [seconds(s) for s in retries.TIMEOUTS.values()]),
        (
            "An answer that was cut short",
            [f"{s:g} s" for s in retries.CUT_SHORT_WAITS],
        ),
        ("A disk, a web server", [f"{s:g} s" for s in retries.READ_WAITS]),
        ("`--cluster tcp://…`", [seconds(address.TIMEOUT)]),
        ("| its first worker", [seconds(address.PATIENCE)]),
        ("| after the last job", [seconds(slurm._GRACE)]),
        ("`cte models check`", [seconds(check_bank.__kwdefaults__["timeout"])]),
    ],
)
def test_a_row_has_the_numbers_of_the_code(start, numbers):
    assert re.findall(r"[\d.]+ s\b", row(start)) == numbers


@pytest.mark.parametrize(("start", "patience"), [("The first", "first"), ("Each", "later")])
def test_the_retries_of_object_stores_are_those_of_the_code(start, patience):
    number, most = retries.PATIENCE[patience]
    assert f"{number} retries or {most:g} s" in row(start)
    backoff = retries.retry_config(patience)["backoff"]
    first, longest = (backoff[w].total_seconds() for w in ("init_backoff", "max_backoff"))
    assert f"waiting {first:g} s at first and {longest:g} s at most" in row("Each request")


def test_deaths_and_heartbeats_are_those_of_the_code():
    failures = dask.config.get("distributed.scheduler.allowed-failures")
    assert f"At the {ORDINALS[failures + 1]}\n" in PAGE
    assert f"preempt, at the {ORDINALS[slurm.PREEMPTIONS + 1]}." in PAGE
    assert f"After {seconds(SETTINGS['distributed.scheduler.worker-ttl'])} it counts" in PAGE
    assert seconds(dask.config.get("distributed.comm.timeouts.tcp")) == "30 s", "half a minute"
    assert f"a line every {progress.PLAIN_EVERY_S:g} s" in PAGE


def test_the_lifetime_of_a_worker_is_that_of_the_code():
    assert "the walltime less 6 minutes (of a short one: less 30 %)" in row(
        "A worker job | the end"
    )
    assert slurm._lifetime("10:00:00") == [
        *("--lifetime", f"{36000 - 360}s"),
        *("--lifetime-stagger", "120s"),
    ]
    assert slurm._lifetime("00:10:00")[1] == f"{600 - 180}s"
