"""Worker processes on this machine: what stops them must not cost the results."""

from __future__ import annotations

import os
import signal
import time

import dask
import pytest

from cte_dask.engine.clusters import local, open_cluster


def test_a_worker_that_is_slow_to_stop_is_no_error(monkeypatch):
    from distributed import LocalCluster

    close = LocalCluster.close
    closed = []

    def slow(self, *args, **kwargs):
        close(self, *args, **kwargs)
        closed.append(self)
        raise TimeoutError

    monkeypatch.setattr(LocalCluster, "close", slow)
    with open_cluster("local", workers=1) as client:
        assert client.submit(sum, (1, 2)).result() == 3
    assert closed


def test_ctrl_c_is_not_for_the_workers():
    def interrupted() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "still here"

    with open_cluster("local", workers=1) as client:
        assert client.submit(interrupted).result() == "still here"


def test_workers_collect_no_stacks_and_share_what_threads_free():
    def settings() -> tuple[bool, str | None]:
        import dask

        enabled = dask.config.get("distributed.worker.profile.enabled")
        return enabled, os.environ.get("MALLOC_ARENA_MAX")

    with open_cluster("local", workers=1) as client:
        assert client.submit(settings).result() == (False, "2")


@pytest.mark.timeout(300)
def test_a_worker_that_dask_gave_up_comes_back(monkeypatch):
    monkeypatch.setattr(local, "LOOKS_AGAIN", 0.2)
    # it is gone from Dask's books at once, whether or not it is about to come up again
    impatient = dask.config.set({"distributed.deploy.lost-worker-timeout": "0 s"})
    with impatient, open_cluster("local", workers=2, threads=1) as client:
        client.wait_for_workers(2, timeout=120)
        before = set(client.nthreads())
        for nanny in list(client.cluster.workers.values()):
            os.kill(nanny.pid, signal.SIGKILL)
        while set(client.nthreads()) & before:
            time.sleep(0.05)
        client.wait_for_workers(2, timeout=120)
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3


def test_workers_start_with_what_they_need():
    with open_cluster("local", workers=1, threads=1) as client:
        loaded = set(client.submit(lambda: list(__import__("sys").modules)).result())
    assert "torch" in loaded
