"""Whatever checks a change elsewhere (workflows, hooks, .ci/run) asks the Makefile for it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents.pages import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
SOURCES = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
HOOKS = [hook for source in SOURCES for hook in source["hooks"]]
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PINNED = (REPOSITORY / "constraints.txt").read_text().splitlines()


def steps_of(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def is_made(command: str) -> bool:
    """Whether a command asks for targets of the Makefile and nothing else."""
    program, *targets = command.split()
    return program == "make" and bool(targets) and set(targets) <= TARGETS


def test_there_is_a_workflow():
    assert WORKFLOWS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_runs_targets_of_the_makefile_and_knows_no_secret(workflow):
    assert "secrets" not in workflow.read_text()
    for step in steps_of(workflow):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        else:
            assert is_made(step["run"]), step


def test_all_lanes_run_on_all_pythons_that_the_project_promises():
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    ci_run = (REPOSITORY / ".ci" / "run").read_text()
    assert commands == set(re.findall(r"^make .+$", ci_run, re.MULTILINE))
    promised = [c.rpartition(" :: ")[2] for c in PROJECT["classifiers"] if ":: Python :: 3." in c]
    assert jobs["test"]["strategy"]["matrix"]["python"] == promised


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_needs_nothing_that_a_fresh_clone_lacks(hook):
    assert {source["repo"] for source in SOURCES} == {"local"}
    if hook["language"] == "python":  # pre-commit installs these from the package index
        assert set(hook["additional_dependencies"]) <= set(PINNED)
    else:
        assert hook["language"] == "system"
        assert is_made(hook["entry"])
