"""A network's code is called for so long and no longer, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest
import torch

from cte_dask.inference.time_limit import TimeLimitError, time_limit, trial_limit, within

LONG = 60.0


def network_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "network"]


def sleeping() -> None:
    time.sleep(5)


def spinning() -> None:
    while True:
        pass


@pytest.mark.parametrize("call", [sleeping, spinning])
def test_what_does_not_come_back_is_left_behind(call):
    with pytest.raises(TimeLimitError, match=r"within 0\.2 s from one batch: it hangs"):
        within(0.2, call)
    assert within(LONG, lambda: 5) == 5


def test_python_code_that_is_left_behind_ends():
    before = set(network_threads())
    with pytest.raises(TimeLimitError):
        within(0.2, spinning)
    for _ in range(100):
        if not set(network_threads()) - before:
            return
        time.sleep(0.1)
    pytest.fail("the loop goes on")


def test_an_interrupt_that_a_network_raises_is_its_own():
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="its code raised KeyboardInterrupt"):
        within(LONG, interrupted)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), MemoryError()])
def test_an_error_comes_through(error):
    def failing() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        within(LONG, failing)
    assert caught.value is error


def test_what_a_network_changes_for_all_is_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def settings() -> tuple[object, ...]:
        mkldnn = torch.backends.mkldnn.enabled
        values = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
        return (*values, mkldnn, os.getcwd(), torch.get_deterministic_debug_mode())

    def meddling() -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        torch.backends.mkldnn.set_flags(False)
        torch.set_deterministic_debug_mode(1)
        os.chdir("/")
        raise ValueError("done")

    before = settings()
    with pytest.raises(ValueError, match="done"):
        within(LONG, meddling)
    assert settings() == before
    assert within(LONG, settings) == before


def test_a_call_within_a_call_is_of_the_same_thread():
    def outer() -> tuple[threading.Thread, threading.Thread]:
        return threading.current_thread(), within(0.001, threading.current_thread)

    one, other = within(LONG, outer)
    assert one is other is not threading.current_thread()


def test_threads_of_networks_end_with_the_thread_that_waits_for_them():
    before = set(network_threads())
    waiting = threading.Thread(target=within, args=(LONG, int))
    waiting.start()
    waiting.join()
    for _ in range(100):
        gc.collect()
        if not set(network_threads()) - before:
            return
        time.sleep(0.05)
    pytest.fail("a thread is left")


def test_limits_follow_the_trial_unless_somebody_says():
    assert time_limit(None, 0.01) == 300
    assert time_limit(None, 30.0) == 6000
    assert time_limit(2.5, 30.0) == 2.5
    assert trial_limit(10.0) == 30
