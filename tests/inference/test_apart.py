"""Work apart goes on in one process, until that ends."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import processes
import pytest
import torch

from cte_dask.engine.clusters.local import PRELOAD
from cte_dask.inference.apart import Apart, EndedError, FailedError, done_apart
from cte_dask.inference.forked import NETWORKS, forking


def number_of(_folder: Path) -> int:
    return os.getpid()


def speaks(text: str, _folder: Path) -> None:
    print(text)


def leaves(_folder: Path) -> None:
    sys.stdout.flush()
    os._exit(7)


def fails(_folder: Path) -> None:
    raise ValueError("no such layer")


def sum_on_the_card(_folder: Path) -> float:
    return float(torch.arange(4, device="cuda").sum())


def test_work_is_done_in_one_process_that_is_not_ours_and_ends_with_the_context():
    with Apart() as apart:
        first, second = (apart.do(number_of, seconds=60) for _ in range(2))
        assert first == second != os.getpid()
        with pytest.raises(FailedError, match="no such layer"):
            apart.do(fails, seconds=60)
        assert apart.do(number_of, seconds=60) == first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_work_that_ends_its_process_is_told_and_the_next_gets_another():
    with Apart() as apart:
        first = apart.do(number_of, seconds=60)
        apart.do(partial(speaks, "of another model"), seconds=60)
        with pytest.raises(EndedError, match=r"^ended with exit code 7$"):
            apart.do(leaves, seconds=60)
        assert apart.do(number_of, seconds=60) not in (first, os.getpid())


def test_work_alone_has_a_process_of_its_own():
    assert len({done_apart(number_of, seconds=60) for _ in range(2)}) == 2


def test_exit_codes_are_right_when_threads_start_processes_at_a_time(monkeypatch):
    read = forkserver.read_signed

    def slowly(file: int) -> int:
        time.sleep(random.uniform(0, 0.05))
        return read(file)

    def ending(_: int) -> str:
        with pytest.raises(EndedError) as caught:
            done_apart(leaves, seconds=60)
        return str(caught.value)

    monkeypatch.setattr(forkserver, "read_signed", slowly)
    with ThreadPoolExecutor(4) as threads:
        endings = Counter(threads.map(ending, range(24)))
    assert endings == {"ended with exit code 7": 24}


def interrupted(pipe, preload: str) -> None:
    """Start a server, interrupt it while it loads, and ask it for a process."""
    forking(preload, threads=1)
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGINT)
    found = done_apart(what_is_there, seconds=60)
    pipe.send((server, forkserver._forkserver._forkserver_pid, found))


def what_is_there(_folder: Path) -> tuple[set[str], bool, bool]:
    return set(sys.modules), gc.isenabled(), gc.get_freeze_count() > 0


@pytest.mark.parametrize(
    ("preload", "wanted"),
    [
        (NETWORKS, {"torch", "cte_dask.inference.predictor"}),
        (PRELOAD, {"torch", "distributed.nanny", "cte_dask.scoring.score_block"}),
    ],
)
def test_ctrl_c_does_not_end_the_server_while_it_loads(preload, wanted):
    process, line = processes.start(interrupted, preload, daemon=False)
    before, after, (loaded, collects, frozen) = line.recv()
    assert before == after
    assert wanted <= loaded
    assert collects
    assert frozen
    process.join()


def test_what_stops_the_start_of_a_process_is_told_as_it_is(monkeypatch):
    def stopped(_process: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ForkServerProcess, "start", stopped)
    with pytest.raises(KeyboardInterrupt), Apart() as apart:
        apart.do(number_of, seconds=60)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_forked_process_has_the_card():
    assert done_apart(sum_on_the_card, seconds=120) == 6
