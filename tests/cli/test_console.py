"""How the commands speak: alike, for people and for programs, and without colour if so wished."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import REPOSITORY, bank_text, write_model
from processes import Command
from troubled import cte

from cte_dask.cli.app import app
from cte_dask.cli.console import clear_errors, console_of, importing, teller

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])(?:;\d+)*m")
TELLS_PROGRESS = {
    "rank",
    "plan",
    "calibrate",
    "evaluate",
    "report",
    "maps",
    "suggest",
    "demo",
    "models check",
}


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


SMALL = ["--cluster", "none", "--tile", "1,32,32", "--roi", "0:2,0:64,0:64"]
MARKUP = ("[/red]", "[bold]x", ":cat:")


def test_names_that_look_like_markup_are_shown_as_they_are(target, tmp_path):
    for seed, name in enumerate(MARKUP):
        write_model(tmp_path / f"{seed}.safetensors", seed=seed)
    text = bank_text([str(seed) for seed in range(len(MARKUP))])
    for seed, name in enumerate(MARKUP):
        text = text.replace(f"\n  {seed}:\n", f"\n  '{name}':\n")
    bank = tmp_path / "bank.yaml"
    bank.write_text(text)
    out = tmp_path / "RUN"
    done = cte("rank", target, "--bank", bank, "--out", out, *SMALL)
    assert done.exit_code == 0, done.output
    planned = cte("plan", target, "--bank", bank, *SMALL)
    for name in MARKUP:
        assert name in done.stdout
        assert name in done.stderr, "progress"
        assert name in planned.stdout


def test_every_console_takes_text_as_it_is():
    sources = (REPOSITORY / "cte_dask").rglob("*.py")
    makers = [p.name for p in sources if re.search(r"\bConsole\(", p.read_text())]
    assert makers == ["consoles.py"]


def talking_bank(folder: Path) -> Path:
    bank = folder / "bank.yaml"
    bank.write_text(
        "schema: cte-bank/1\nmodels:\n  talking: {format: python, source: 'talking:network', "
        "trust: true, axes: yx, halo: {y: 8, x: 8}}\n"
    )
    return bank


@pytest.mark.parametrize("cluster", ["none", pytest.param("local", marks=pytest.mark.slow)])
def test_json_is_json_whatever_a_model_prints(target, tmp_path, cluster):
    out = tmp_path / "RUN"
    words = ["rank", target, "--bank", talking_bank(tmp_path), "--out", out, *SMALL]
    command = Command([*words, "--cluster", cluster, "--workers", "1", "--json"], tmp_path)
    assert command.wait() == 0, command.stderr
    assert json.loads(command.stdout)["complete"] is True
    assert "talking: predicting" in command.stderr
    assert "talking below Python: predicting" in command.stderr
    assert "talking to developers" not in command.stderr, "warnings of libraries are not for users"


def test_an_error_and_progress_show_no_secret_of_a_url(capsys):
    url = "https://me:secret@host/a.zarr?sig=SECRET"
    with pytest.raises(typer.Exit), clear_errors():
        raise ValueError(f"{url}: no array there; tried '{url}'")
    teller(console_of(False))(f"reading {url}")
    shown = capsys.readouterr().err
    assert "secret" not in shown.lower()
    assert shown.count("https://…@host/a.zarr?…") == 3


def test_garbage_is_looked_for_again_after_an_import():
    with importing():
        assert not gc.isenabled()
        made = [[] for _ in range(10_000)]
        assert gc.get_count()[0] > len(made)
    assert gc.isenabled()
    assert gc.get_count()[0] < len(made), "they count as old"
    assert not gc.get_freeze_count()
    with pytest.raises(ImportError), importing():
        import cte_dask.nothing  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_program_that_ends_looks_for_no_garbage():
    code = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > len(gc.get_objects())))
import cte_dask.cli
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
