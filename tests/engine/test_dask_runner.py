"""Running: every scheduler gives the numbers of the serial run, and what dies loses nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from processes import Command, kill

import cte_dask
from cte_dask.engine import dask_runner
from cte_dask.engine.checkpoint import Checkpoint, ScoreBlock
from cte_dask.engine.clusters import open_cluster
from cte_dask.engine.dask_runner import jobs_array, run_jobs
from cte_dask.engine.jobs import Job, Listed, missing_jobs
from cte_dask.engine.lazy import blocks_array
from cte_dask.models import load_bank
from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.dataset import read_scores
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.results.store import Scores, open_scores
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume

OPTIONS = {
    "tile": (1, 32, 32),
    "block": (1, 3, 2),
    "metrics": ("nhd", "ei"),
    "perturbations": ("dropout:0.2", "gaussian:0.1"),
    "rank_by": "consistency",
}


@pytest.fixture(scope="module")
def experiment(target, bank_path):
    return resolve(open_volume(str(target)), load_bank(str(bank_path)), **OPTIONS)


@pytest.fixture(scope="module")
def serial(experiment, tmp_path_factory) -> xr.Dataset:
    """The tile scores of the serial run, the specification of all others."""
    url = str(tmp_path_factory.mktemp("serial") / "scores.zarr")
    scores = create(url, layout_of(experiment))
    run_jobs(Checkpoint(experiment, url), Listed(map(Job, range(len(experiment.blocks)))))
    return read_scores(scores)


def assert_equal_bits(got: xr.Dataset, want: xr.Dataset) -> None:
    got, want = (d.sortby("tile").drop_vars("block") for d in (got, want))
    xr.testing.assert_identical(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_local_cluster_gives_the_bits_of_the_serial_run(experiment, serial, tmp_path, workers):
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    seen = []
    with open_cluster("local", workers=workers, threads=1) as client:
        run_jobs(
            Checkpoint(experiment, url),
            Listed(missing_jobs(scores)),
            client=client,
            progress=seen.append,
        )
    assert sorted(s.index for s in seen) == list(range(len(experiment.blocks)))
    assert_equal_bits(read_scores(scores), serial)


def test_blocks_in_any_order_give_the_same_store(experiment, serial, tmp_path):
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    order = np.random.default_rng(0).permutation(len(experiment.blocks))
    run_jobs(Checkpoint(experiment, url), Listed(map(Job, [int(i) for i in order])))
    assert_equal_bits(read_scores(scores), serial)


def test_score_is_lazy_and_computes_the_same_numbers(target, bank_path, serial):
    lazy = cte_dask.score(
        cte_dask.open_volume(str(target)), cte_dask.load_bank(str(bank_path)), **OPTIONS
    )
    assert lazy.nhd.chunks is not None
    assert lazy.nhd.dims == ("model", "perturbation", "tile")
    tasks = len(lazy.nhd.data.__dask_graph__())
    assert tasks <= 3 * 12 + 2, "tasks must not grow faster than the blocks"
    computed = lazy.compute(scheduler="synchronous")
    computed.attrs = serial.attrs
    votes = serial.sizes["vote"]  # of a store as long as the longest, lazily as long as can be
    assert not computed.votes[:, votes:].any()
    assert_equal_bits(computed.isel(vote=slice(votes)), serial)
    ranking = cte_dask.rank(lazy)
    assert ranking.primary == "nhd@dropout:0.2"
    assert [m.rank for m in ranking.models][:1] == [1]


def test_positions_are_given_in_voxels_and_nanometre(serial):
    assert serial.z.max() == 5
    assert serial.y_extent.min() == 24
    np.testing.assert_allclose(serial.y_nm - serial.y_nm[0], (serial.y - serial.y[0]) * 10.0)
    np.testing.assert_allclose(serial.z_nm - serial.z_nm[0], (serial.z - serial.z[0]) * 40.0)


@pytest.mark.slow
def test_a_dask_array_that_no_zarr_backs_is_accepted(image, bank_path, serial):
    import dask.array as da

    volume = cte_dask.open_volume(da.from_array(image, chunks=(2, 40, 50)), axes="zyx")
    scores = cte_dask.score(volume, cte_dask.load_bank(str(bank_path)), **OPTIONS)
    got = scores.compute(scheduler="synchronous").sortby("tile")
    np.testing.assert_array_equal(got.nhd, serial.sortby("tile").nhd)


def test_two_volumes_in_memory_never_share_a_task(image, bank_path):
    bank = cte_dask.load_bank(str(bank_path))
    names = set()
    for array in (image, image[::-1].copy()):
        experiment = resolve(cte_dask.open_volume(array), bank, **OPTIONS)
        names.add(blocks_array(experiment, [0]).name)
    assert len(names) == 2


@pytest.mark.slow
def test_an_address_of_a_running_scheduler_is_used(target, bank_path, tmp_path, serial, address):
    out = str(tmp_path / "RUN")
    outcome = rank_target(
        TargetOptions(str(target)), str(bank_path), out, cluster=address, **OPTIONS
    )
    with Client(address) as client:
        assert client.nthreads(), "it is there for others still"
    assert outcome.exit_code == 0
    assert_equal_bits(read_scores(open_scores(str(tmp_path / "RUN" / "scores.zarr"))), serial)


@pytest.mark.slow
def test_a_killed_worker_costs_no_result(experiment, serial, tmp_path):
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    killed = []

    with open_cluster("local", workers=2, threads=1) as client:

        def kill_one(_scores) -> None:
            if not killed:
                pids = client.run(os.getpid)
                killed.append(pids)
                os.kill(next(iter(pids.values())), signal.SIGKILL)

        run_jobs(
            Checkpoint(experiment, url),
            Listed(missing_jobs(scores)),
            client=client,
            progress=kill_one,
        )
    assert killed
    assert_equal_bits(read_scores(scores), serial)


@pytest.mark.slow
def test_a_result_that_its_worker_takes_along_is_computed_again(
    experiment, serial, tmp_path, monkeypatch
):
    url = str(tmp_path / "scores.zarr")
    scores, lost = create(url, layout_of(experiment)), threading.Event()
    fetch = dask_runner._gathered
    statuses = []

    with open_cluster("local", workers=2, threads=1) as client:
        told = client._stream_handlers["lost-data"]
        monkeypatch.setitem(
            client._stream_handlers, "lost-data", lambda key=None: (told(key), lost.set())
        )

        def fetch_after_a_death(batch, client):
            if not statuses:
                (holder,) = client.who_has(batch[:1])[batch[0].key]
                os.kill(client.run(os.getpid, workers=[holder])[holder], signal.SIGKILL)
                assert lost.wait(60)
                statuses.extend(future.status for future in batch)
            return fetch(batch, client)

        monkeypatch.setattr(dask_runner, "_gathered", fetch_after_a_death)
        run_jobs(Checkpoint(experiment, url), Listed(missing_jobs(scores)), client=client)
    assert "lost" in statuses
    assert_equal_bits(read_scores(scores), serial)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits_without_redoing_finished_blocks(
    target, bank_path, tmp_path, serial
):
    out = tmp_path / "RUN"
    command = [
        "rank", target, "--bank", bank_path, "--out", out, "--cluster", "none", "--tile", "1,32,32",
        "--block", "1,3,2", "--metric", "nhd", "--metric", "ei", "--quiet",
        "--perturb", "dropout:0.2", "--perturb", "gaussian:0.1", "--rank-by", "consistency",
    ]  # fmt: skip
    running = Command(command, tmp_path)
    done = out / "scores.zarr" / "done" / "c"
    while running.exit_code is None and not (done.is_dir() and len(list(done.iterdir())) >= 2):
        time.sleep(0.01)
    kill(running.process)
    finished = {p: p.stat().st_mtime_ns for p in done.iterdir()}
    assert len(finished) >= 2
    assert Command([*command, "--resume"], tmp_path).wait() == 0
    if len(finished) < 12:
        assert json.loads((out / "ranking.json").read_text())["complete"]
    assert all(p.stat().st_mtime_ns == at for p, at in finished.items())
    assert_equal_bits(read_scores(open_scores(str(out / "scores.zarr"))), serial)


def test_ctrl_c_leaves_a_valid_ranking_of_what_was_done(target, bank_path, tmp_path):
    blocks = []

    def impatient(scores) -> None:
        blocks.append(scores.index)
        if len(blocks) == 3:
            raise KeyboardInterrupt

    outcome = rank_target(
        TargetOptions(str(target)),
        str(bank_path),
        str(tmp_path / "RUN"),
        cluster="none",
        progress=lambda *_: contextlib.nullcontext(impatient),
        **OPTIONS,
    )
    assert outcome.exit_code == 130
    assert outcome.result["complete"] is False
    assert outcome.result["blocks"]["done"] == 3
    assert [m.rank for m in outcome.ranking.models] == sorted(
        m.rank for m in outcome.ranking.models
    )
    assert outcome.ranking.models[0].scores["nhd@dropout:0.2"].n_tiles == 3 * 3 * 2 - 3 * 1


def test_a_task_that_dies_is_a_failed_block_with_its_cause(experiment, tmp_path):
    from cte_dask.engine.dask_runner import _result
    from cte_dask.results.store import DONE

    class Dead:
        status = "error"

        def exception(self):
            return RuntimeError("the worker died")

    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    result = _result(Checkpoint(experiment, url), Dead(), Job(3), None)
    assert set(result.failures.values()) == {"RuntimeError: the worker died"}
    assert scores.done()[3] == DONE["failures"]
    assert scores.failures(3)["model-0"] == "RuntimeError: the worker died"
    assert 3 in scores.missing()


def test_a_full_disk_is_told_and_what_is_complete_stays(experiment, serial, tmp_path, monkeypatch):
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    real, written = Scores.write, []

    def filling(store, block):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(block.index)
        real(store, block)

    monkeypatch.setattr(Scores, "write", filling)
    with pytest.raises(OSError, match=r"no space left for .*scores\.zarr: make room.*--resume"):
        run_jobs(Checkpoint(experiment, url), Listed(missing_jobs(scores)))
    assert list(scores.missing()) == list(range(2, len(experiment.blocks)))
    monkeypatch.setattr(Scores, "write", real)
    run_jobs(Checkpoint(experiment, url), Listed(missing_jobs(scores)))
    assert_equal_bits(read_scores(scores), serial)


def test_a_run_stops_though_the_error_of_a_signal_was_lost(experiment, tmp_path):
    from cte_dask.errors import STOPPED

    url = str(tmp_path / "scores.zarr")
    create(url, layout_of(experiment))
    done = []

    def lose_the_error(scores) -> None:
        done.append(scores.index)
        STOPPED.set()

    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs(
                Checkpoint(experiment, url), Listed(map(Job, range(4))), progress=lose_the_error
            )
    finally:
        STOPPED.clear()
    assert len(done) == 1


@pytest.mark.slow
def test_of_a_large_target_an_even_sample_of_blocks_keeps_its_votes(
    experiment, tmp_path, monkeypatch
):
    from cte_dask.engine import jobs

    tiles = len(experiment.grid)
    monkeypatch.setattr(jobs, "MOST_VOTING_TILES", tiles // 3)
    url = str(tmp_path / "scores.zarr")
    scores = create(url, layout_of(experiment))
    wanted = missing_jobs(scores)
    kept = [job.block for job in wanted if job.votes]
    assert 0.2 < len(kept) / len(wanted) < 0.5
    assert max(np.diff(kept)) <= 6, "spread over the target"
    run = jobs_array(ScoreBlock(experiment), wanted).compute(scheduler="synchronous")
    assert [s.index for s in run if s.votes is not None] == kept, "tasks are told, too"
    run_jobs(Checkpoint(experiment, url), Listed(wanted))
    voted = [bool(scores.votes(job.block).voted.any()) for job in wanted]
    assert voted == [job.votes for job in wanted]
    assert all(job.votes for job in missing_jobs_of_small(scores, monkeypatch, tiles))


def missing_jobs_of_small(scores, monkeypatch, tiles):
    from cte_dask.engine import jobs

    monkeypatch.setattr(jobs, "MOST_VOTING_TILES", tiles)
    scores.group["done"][:] = 0
    return missing_jobs(scores)
