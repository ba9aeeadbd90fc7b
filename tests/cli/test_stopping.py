"""A batch system's signals: what is done stays, the exit code says 130, a resumed run is whole."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from processes import Command

from cte_dask.cli.console import stoppable

ARGUMENTS = ["--tile", "1,32,32", "--block", "1,1,1", "--cluster", "none", "--quiet"]


def test_a_signal_leaves_whole_blocks_and_the_exit_code_130(target, bank_path, tmp_path):
    out = tmp_path / "RUN"
    command = ["rank", target, "--bank", bank_path, "--out", out, *ARGUMENTS]
    running = Command([*command, "--resume"], tmp_path)
    done = out / "scores.zarr" / "done" / "c"
    while not (done.is_dir() and any(done.iterdir())):
        assert running.exit_code is None
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait() == 130
    result = json.loads((out / "ranking.json").read_text())
    assert not result["complete"]
    assert 0 < result["blocks"]["done"] == len(list(done.iterdir()))


def test_the_first_signal_interrupts_and_the_next_ones_are_ignored():
    with stoppable():
        with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_thread_leaves_the_signals_alone():
    seen = []

    def work() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
