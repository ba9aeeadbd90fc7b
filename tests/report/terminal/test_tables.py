"""What a terminal, a file and Ctrl-C get from the commands, as real processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import blobs
from processes import Command

from cte_dask.results.store import DONE, open_scores
from cte_dask.volume import write_ome_zarr

ESCAPE = "\x1b"
SMALL = ["--cluster", "none", "--tile", "1,32,32", "--roi", "0:2,0:64,0:64"]


def rank(target, bank, out, *more) -> Command:
    """Run a command to its end."""
    command = Command(["rank", target, "--bank", bank, "--out", out, *SMALL, *more], out / "..")
    command.wait()
    return command


def test_what_is_no_terminal_gets_plain_text_and_whole_lines(target, bank_path, tmp_path):
    done = rank(target, bank_path, tmp_path / "RUN")
    assert done.exit_code == 0, done.stderr
    assert ESCAPE not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert all(f"model-{i}" in done.stdout for i in range(3))
    assert "blocks" in done.stderr, "progress is told on standard error"


def test_quiet_says_nothing_but_the_result(target, bank_path, tmp_path):
    done = rank(target, bank_path, tmp_path / "RUN", "--quiet", "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["complete"] is True


def test_a_terminal_gets_a_live_view(target, bank_path, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    main, other = pty.openpty()
    arguments = [target, "--bank", bank_path, "--out", tmp_path / "RUN", *SMALL]
    running = Command(["rank", *arguments], tmp_path, terminal=os.ttyname(other))
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert running.wait() == 0
    text = shown.decode(errors="replace")
    assert ESCAPE in text
    assert "so far" in text, "the leaderboard"


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["none", "local"])
def test_ctrl_c_finishes_cleanly_and_resuming_goes_on(bank_path, tmp_path, cluster):
    target, out = tmp_path / "target.zarr", tmp_path / "RUN"
    write_ome_zarr(
        target, blobs((16, 64, 64)), axes="zyx", voxel_size_nm=(40, 10, 10), chunks=(2, 64, 64)
    )
    options = ["--tile", "1,32,32", "--block", "1,1,1", "--cluster", cluster, "--workers", "2"]
    arguments = ["rank", target, "--bank", bank_path, "--out", out, *options]
    running = Command(arguments, tmp_path)
    wait_for_blocks(out / "scores.zarr", running)
    os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to the whole group
    assert running.wait() == 130, running.stderr
    assert "Traceback" not in running.stderr
    ranking = json.loads((out / "ranking.json").read_text())
    assert ranking["complete"] is False
    assert 0 < ranking["blocks"]["done"] < ranking["blocks"]["total"]
    assert ranking["blocks"]["failed"] == 0
    more = ["--resume", "--json", "--quiet", "--roi", "0:16,0:64,0:64"]
    resumed = Command([*arguments, *more], tmp_path / "resumed")
    assert resumed.wait() == 0, resumed.stderr
    assert json.loads(resumed.stdout)["blocks"]["done"] == ranking["blocks"]["total"]


def wait_for_blocks(store: Path, running: Command) -> None:
    for _ in range(4000):
        assert running.exit_code is None, running.stderr
        try:
            if (open_scores(str(store)).done() == DONE["complete"]).sum() >= 2:
                return
        except (OSError, ValueError, KeyError):
            pass  # the store is being made
        time.sleep(0.1)
    pytest.fail("no block was done")


@pytest.fixture
def script() -> Path:
    """The installed command: completion goes by its name."""
    found = Path(sys.executable).with_name("cte")
    if not found.exists():
        pytest.skip("the command is not installed beside this Python")
    return found


@pytest.mark.parametrize(
    ("line", "offered"), [("cte rep", "report"), ("cte report --gal", "--gallery")]
)
def test_the_shell_completes_commands_and_options(script, line, offered):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **words, "_CTE_COMPLETE": "complete_bash"},
    )
    assert done.stdout.split() == [offered]


def test_completion_can_be_installed(script, tmp_path):
    subprocess.run(
        [script, "--install-completion", "bash"],
        capture_output=True,
        check=True,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
    )
    installed = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert any("_CTE_COMPLETE=complete_bash" in text for text in installed)
