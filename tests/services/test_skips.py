"""A server that is not installed: named where a user runs the tests, a failure in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("variables", "code", "told"),
    [({}, 0, "SKIPPED [1]"), ({"CI": "true"}, 1, "skipped in CI")],
    ids=["by hand", "in CI"],
)
def test_a_hidden_server_is_named_and_fails_ci(tmp_path, variables, code, told):
    test = f"{TESTS / 'test_slurm.py'}::test_a_cancelled_job_stays_cancelled"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp"]
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "PATH"}}
    done = subprocess.run(
        [*command, tmp_path / "inner", test],
        env={**kept, **variables, "PATH": str(tmp_path)},  # here is no SLURM
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout
    assert told in done.stdout
    assert "SLURM: no munged" in done.stdout
    assert "make services" in done.stdout


@pytest.mark.parametrize("failing", ["", "services", "test", "test-slow"])
def test_ci_installs_the_servers_and_tests_and_tells_what_failed(tmp_path, failing):
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1 CI=$CI" >> {tmp_path}/asked\n[ "$1" != "{failing}" ]\n')
    make.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run([REPOSITORY / ".ci/run"], env={**os.environ, "PATH": path}, check=False)
    asked = (tmp_path / "asked").read_text().splitlines()
    steps = ["services", "test", "test-slow"]
    last = steps.index(failing) if failing else len(steps)
    assert asked == [f"{step} CI=true" for step in steps[: last + 1]]
    assert bool(done.returncode) == bool(failing)
