"""Every command in README, docs, deploy and examples does what the page says."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from distributed import LocalCluster
from documents.pages import (
    NOT_RUN,
    PROGRAMS,
    REPOSITORY,
    Block,
    blocks,
    commands,
    inline_commands,
    words_of,
)
from documents.world import copied, in_this_process, run_script, smaller, write_template
from troubled import cte

from cte_dask.cli.app import app

SHELL = blocks("sh")
SERVERS = ("s3://", "slurm:", "sbatch ")
"""What `tests/services/test_documented.py` runs against real servers."""
ELSEWHERE = {
    "cte demo --out demo-run": "tests/demo/test_demo.py runs it on a smaller target",
    ". .venv/bin/activate": "`make demo` and `make lint` make it",
    "pre-commit install": "test_workflows.py looks at the hooks",
}


def kind(command: str) -> str:
    """How a command is tested; raises where no case covers it."""
    if command in ELSEWHERE:
        return "elsewhere"
    first = words_of(command)[0]
    if first in ("make", "pip"):
        return first
    if any(server in command for server in SERVERS):
        return "server"
    if first in ("export", "eval", "python", "dask") or re.match(r"[A-Z]+=\$", command):
        return "script"
    if first == "cte":
        return "cte"
    raise ValueError(f"no case covers the documented command {command!r}")


def kinds(block: Block) -> set[str]:
    return {kind(command) for command in commands(block)}


@pytest.mark.parametrize("block", SHELL, ids=lambda b: b.name)
def test_every_documented_command_has_a_case(block):
    assert commands(block)
    assert kinds(block)


def test_a_command_without_a_case_is_found():
    with pytest.raises(ValueError, match=r"no case covers .*'rm -r RUN'"):
        kind("rm -r RUN")


def test_no_command_hides_in_a_block_of_another_language():
    for block in blocks():
        assert block.language in {"sh", "python", "{include}", *NOT_RUN}, block.name
        if block.language in NOT_RUN:
            firsts = {line.split()[0] for line in block.text.splitlines() if line.strip()}
            assert not firsts & PROGRAMS, f"{block.name}: commands belong into ```sh"


# Installing and making --------------------------------------------------------------------------


def all_of(wanted: str) -> list[str]:
    found = {c for block in SHELL for c in commands(block) if kind(c) == wanted}
    inline = {c for _, c in inline_commands() if c.split()[0] == wanted}
    return sorted(found | inline)


@pytest.mark.parametrize("command", all_of("make"))
def test_what_is_to_be_made_is_in_the_makefile(command):
    done = subprocess.run(
        ["make", "--dry-run", *words_of(command)[1:]],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OURS = re.compile(r"(?P<package>\.|cte-dask|dist/[\w.-]+\.whl)(?:\[(?P<extras>[a-z0-9,]+)\])?")
WHEEL = f"dist/cte_dask-{PROJECT['version']}-py3-none-any.whl"


@pytest.mark.parametrize("command", all_of("pip"))
def test_what_is_to_be_installed_is_this_project_with_extras_that_it_has(command):
    verb, *words = words_of(command)[1:]
    assert verb in {"install", "wheel"}
    for option in [w for w in words if w.startswith("-")]:
        value = {"-c": "constraints.txt", "--wheel-dir": "dist", "--no-deps": None}[option]
        assert value is None or words.pop(words.index(option) + 1) == value
        words.remove(option)
    for name in words:
        if ours := OURS.fullmatch(name):
            assert ours["package"] in {".", "cte-dask", WHEEL}, name
            extras = PROJECT["optional-dependencies"]
            assert set((ours["extras"] or "").split(",")) <= {"", *extras}
        else:
            assert name in {"cellpose", "stardist", "tensorflow"}, "another's package"


def test_the_readme_lists_the_extras_that_there_are():
    text = (REPOSITORY / "README.md").read_text()
    block = text[text.index("# extras:") : text.index("cte doctor TARGET")]
    listed = set(block.replace("# extras:", "").replace("#", "").split())
    assert listed == set(PROJECT["optional-dependencies"]) - {"test", "dev"}


# The commands of this package -------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return write_template(tmp_path_factory.mktemp("documents") / "template")


@pytest.fixture
def world(template, tmp_path, monkeypatch) -> Path:
    folder = copied(template, tmp_path / "world")
    monkeypatch.chdir(folder)
    return folder


BY_DEFAULT = "cte rank TARGET --bank bank.yaml --out RUN"
"""Of the commands that name no cluster this one runs on the default one, worker processes."""


PLAIN = sorted(
    {c for b in SHELL if "script" not in kinds(b) for c in commands(b) if kind(c) == "cte"}
)


@pytest.mark.parametrize("command", PLAIN)
def test_a_documented_command_runs_as_it_stands(command, world):
    text = command if command == BY_DEFAULT else in_this_process(smaller(command))
    words = words_of(text)[1:]
    if words[0] == "rank":
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    with scheduler_for(words):
        done = cte(*words)
    if "cuda" in words and done.exit_code == 2:  # tests/engine/clusters/test_cuda.py has more
        assert re.search("GPU|cte-dask.cuda12", done.output)
    else:
        assert done.exit_code == 0, done.output


@contextlib.contextmanager
def scheduler_for(words: list[str]) -> Iterator[None]:
    """A scheduler with a worker where a command wants one to be there."""
    address = next((w for w in words if w.startswith("tcp://")), None)
    if address is None:
        yield
        return
    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    port = int(address.rpartition(":")[2])
    with LocalCluster(scheduler_port=port, dashboard_address=None, **settings):
        yield


SCRIPTS = [b for b in SHELL if "script" in kinds(b)]


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda b: b.name)
def test_a_documented_script_runs_as_it_stands(block, world):
    if "--out RUN" in block.text:
        shutil.rmtree("RUN")
    if block.page.name == "extend.md":
        code = [b.text for b in blocks("python") if b.page == block.page]
        Path("mine.py").write_text("\n\n".join(code))
    script = smaller(block.text)
    if block.page.parent.name != "local":
        script = in_this_process(script)
    if "--resume" in script:
        script = re.sub(
            r"^(cte rank .*)--resume(.*)$",
            r"\1--overwrite\2\n\1--resume\2",
            script,
            flags=re.MULTILINE,
        )
    code, told = run_script(script, world)
    assert code == 0, told


# Commands within a line -------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "text"), inline_commands())
def test_a_command_within_a_line_has_only_options_that_exist(page, text):
    words = [w for w in words_of(text.replace("…", "ELLIPSIS"))[1:] if w != "ELLIPSIS"]
    if text.split()[0] != "cte" or not words:
        return
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: no command {name!r}"
        command = command.commands[name]
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    given = {w.partition("=")[0] for w in words if w.startswith("--")}
    assert given <= known, f"{page}: {text}"
