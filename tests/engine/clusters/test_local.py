"""Worker processes on this machine: what stops them must not cost the results."""

from __future__ import annotations

import os
import signal

from cte_dask.engine.clusters import open_cluster


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
