"""How the commands speak: alike, for people and for programs, and without colour if so wished."""

from __future__ import annotations

import json
import re

import pytest
import typer
from troubled import cte

from cte_dask.cli.app import app

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])(?:;\d+)*m")
TELLS_PROGRESS = {"rank", "plan", "calibrate", "evaluate", "report", "demo"}


def all_commands() -> dict[str, object]:
    """Every command by its words, such as ``models check``."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {n}": c for n, c in inner.items()} if inner else {name: command}
    return found


COMMANDS = all_commands()


def options(name: str) -> set[str]:
    return {option for p in COMMANDS[name].params for option in p.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_those_that_tell_progress_can_be_quiet(name):
    assert "--json" in options(name)
    assert ("--quiet" in options(name)) == (name in TELLS_PROGRESS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_of_a_command_is_explained(name):
    for parameter in COMMANDS[name].params:
        if parameter.name != "help":
            assert len(parameter.help or "") > 10, f"{name}: {parameter.name}"
    assert COMMANDS[name].help.split("\n")[0].endswith(".")


@pytest.fixture(scope="module")
def run(target, bank_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("speech") / "RUN"
    fast = ["--cluster", "none", "--tile", "1,32,32", "--roi", "0:1,0:64,0:64", "--quiet"]
    assert cte("rank", target, "--bank", bank_path, "--out", out, *fast).exit_code == 0
    return out


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["status"], {"blocks", "failed"}),
        (["report", "--gallery", "0", "--quiet"], {"report"}),
        (["maps", "--overwrite"], {"maps", "images", "napari", "neuroglancer", "link", "notes"}),
    ],
)
def test_json_is_one_document_and_all_there_is_on_standard_output(run, words, keys):
    done = cte(words[0], run, *words[1:], "--json")
    assert done.exit_code == 0, done.output
    assert keys <= set(json.loads(done.stdout))


def test_status_tells_the_blocks_of_a_run(run):
    told = json.loads(cte("status", run, "--json").stdout)
    assert told["blocks"]["complete"] == told["blocks"]["total"] > 0
    assert told["failed"] == []
    assert "complete" in cte("status", run).stdout


@pytest.mark.parametrize(("no_color", "coloured"), [("1", False), ("", True)])
def test_no_color_is_obeyed_on_a_terminal(monkeypatch, no_color, coloured):
    from cte_dask.cli.console import console_of

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", no_color)
    console = console_of(False)
    with console.capture() as shown:
        console.print("incomplete", style="yellow")
    assert bool(COLOUR.search(shown.get())) is coloured
