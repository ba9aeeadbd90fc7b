"""Twenty kills each of workers, schedulers and clients at random moments lose and repeat nothing.

After each, a resumed run gives the undisturbed one's scores to the last bit. That no finished block
is computed again is counted by the network itself, which notes every tile it is asked for.
"""

from __future__ import annotations

import os
import signal
import threading
from itertools import count

import dask
import numpy as np
import processes
import pytest
from faults.conftest import OPTIONS

from cte_dask.engine.checkpoint import Checkpoint
from cte_dask.engine.clusters import open_cluster
from cte_dask.engine.dask_runner import run_jobs
from cte_dask.engine.jobs import Listed, missing_jobs
from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.scoring.settings import TargetOptions

KILLS = int(os.environ.get("CTE_KILLS", "20"))
pytestmark = pytest.mark.timeout(600)


def test_killed_workers_lose_and_repeat_nothing(undisturbed, ledger, tmp_path):
    experiment, random, killed = undisturbed.experiment, np.random.default_rng(0), []
    # no block is to blame here, and on a slow machine all may fall upon one
    blameless = dask.config.set({"distributed.scheduler.allowed-failures": KILLS})
    cluster = open_cluster("local", workers=3, threads=1)
    with blameless, cluster as client:
        while len(killed) < KILLS:
            url = str(tmp_path / f"{len(killed)}.zarr")
            scores, seen, over = create(url, layout_of(experiment)), ledger(url), threading.Event()

            def kill_now_and_then(seen=seen, over=over) -> None:
                while len(killed) < KILLS and not over.wait(random.uniform(0.05, 0.6)):
                    known = client.nthreads()
                    nannies = client.cluster.workers.values()
                    pids = [n.pid for n in nannies if n.worker_address in known and n.pid]
                    pids = [pid for pid in pids if pid not in killed]
                    if pids:
                        victim = pids[random.integers(len(pids))]
                        os.kill(victim, signal.SIGKILL)
                        killed.append(victim)
                        seen.look()

            killer = threading.Thread(target=kill_now_and_then)
            killer.start()
            try:
                run_jobs(Checkpoint(experiment, url), Listed(missing_jobs(scores)), client=client)
            finally:
                over.set()
                killer.join()
            seen.look()
            undisturbed.assert_equal(url)
            seen.assert_finished_once()
    assert len(killed) == KILLS


def test_killed_schedulers_lose_and_repeat_nothing(undisturbed, ledger, tmp_path):
    random, killed = np.random.default_rng(1), 0
    target = TargetOptions(undisturbed.target)
    for number in count():
        out = str(tmp_path / f"RUN-{number}")
        seen, ended = ledger(f"{out}/scores.zarr"), False
        while not ended:
            with processes.small_cluster(str(tmp_path)) as (address, head):
                timer = threading.Timer(random.uniform(0.3, 2.0), processes.kill, [head])
                if disturbed := killed < KILLS:
                    timer.start()
                ended = _ranked(target, undisturbed.bank, out, address)
                if disturbed:
                    timer.cancel()
                    timer.join()
                killed += not head.is_alive()
            seen.look()
        undisturbed.assert_equal(f"{out}/scores.zarr")
        seen.assert_finished_once()
        if killed >= KILLS:
            return


def _ranked(target: TargetOptions, bank: str, out: str, address: str) -> bool:
    """Rank as far as the scheduler lives; returns whether the run was complete."""
    try:
        outcome = rank_target(target, bank, out, cluster=address, resume=True, **OPTIONS)
    except ValueError as error:
        if not any(told in str(error) for told in UNREACHABLE):
            raise
        return False
    assert outcome.exit_code == (0 if outcome.result["complete"] else 3)
    return bool(outcome.result["complete"])


UNREACHABLE = ("no scheduler answers", "cannot run cte_dask")
"""What is told of a scheduler that died before it was given any work."""


def test_killed_clients_lose_and_repeat_nothing(undisturbed, ledger, tmp_path):
    random, killed = np.random.default_rng(2), 0
    with processes.small_cluster(str(tmp_path)) as (address, _):
        options = {**OPTIONS, "cluster": address}
        for number in count():
            out = str(tmp_path / f"RUN-{number}")
            seen, ended = ledger(f"{out}/scores.zarr"), False
            while not ended:
                arguments = (undisturbed.target, undisturbed.bank, out, options)
                client, line = processes.start(processes.client, *arguments)
                client.join(random.uniform(0.3, 2.0) if killed < KILLS else None)
                if client.is_alive():
                    processes.kill(client)
                    killed += 1
                else:
                    assert line.recv() == (0, True)
                    ended = True
                seen.look()
            undisturbed.assert_equal(f"{out}/scores.zarr")
            # tasks that a dead client left may end while the next one's begin
            seen.assert_finished_once(slack_s=0.5)
            if killed >= KILLS:
                return
