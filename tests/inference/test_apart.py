"""Work apart goes on in one process, until that ends."""

from __future__ import annotations

import multiprocessing.forkserver as forkserver
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from cte_dask.inference.apart import Apart, EndedError, FailedError, done_apart


def number_of(_folder: Path) -> int:
    return os.getpid()


def speaks(text: str, _folder: Path) -> None:
    print(text)


def leaves(_folder: Path) -> None:
    sys.stdout.flush()
    os._exit(7)


def fails(_folder: Path) -> None:
    raise ValueError("no such layer")


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
