"""SLURM, a real one: jobs give the numbers of the serial run, whatever befalls them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from services.slurm import until
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.engine.clusters import open_cluster

# a machine that does much else is slow, not wrong: only one that hangs meets the limit
pytestmark = [pytest.mark.service, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--tile", "1,32,32", "--block", "1,2,2", "--quiet"]
LONGER = ["--block", "1,1,1", "--repeats", "10"]


@pytest.fixture
def site(slurm, tmp_path) -> str:
    return write_site(tmp_path)


def write_site(folder: Path, **settings) -> str:
    told = {"workers": 2, "memory": "2GiB", "interface": "lo", "shared": str(folder / "shared")}
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({"schema": "cte-site/1", "slurm": {**told, **settings}}))
    return f"slurm:{path}"


@pytest.fixture(scope="module")
def in_process(small, bank, tmp_path_factory) -> dict:
    """What the run in one process gives: every other way must give the same."""
    return ranked(small, bank, tmp_path_factory.mktemp("alone"), "none")


@pytest.fixture(scope="module")
def longer_in_process(small, bank, tmp_path_factory) -> dict:
    """The same of a run that is long enough to be disturbed."""
    return ranked(small, bank, tmp_path_factory.mktemp("alone"), "none", *LONGER)


def ranked(small, bank, out, cluster: str, *more: str) -> dict:
    command = ["rank", str(small), "--bank", str(bank), "--out", str(out / "RUN")]
    done = CliRunner().invoke(app, [*command, "--cluster", cluster, *ARGUMENTS, *more])
    assert done.exit_code == 0, done.output
    return result_of(out)


def result_of(out: Path) -> dict:
    """The ranking and every tile's scores, to the last bit: Python writes floats in full."""
    result = json.loads((out / "RUN" / "ranking.json").read_text())
    assert result["complete"]
    tiles = pq.read_table(out / "RUN" / "tiles.parquet").to_pydict()
    return {"models": result["models"], "tiles": repr(tiles)}


def jobs() -> list[str]:
    command = ["squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%i"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_slurm_gives_the_ranking_of_the_in_process_run(site, small, bank, in_process, tmp_path):
    assert ranked(small, bank, tmp_path, site) == in_process
    until(lambda: not jobs())
    [run_folder] = (tmp_path / "shared").iterdir()
    assert not list(run_folder.glob("*.pem")), "the key must go with the run"
    logs = "".join(log.read_text() for log in run_folder.iterdir())
    assert "tls://" in logs
    assert "tcp://" not in logs


def test_each_of_two_gpus_has_a_worker_of_its_own(slurm, tmp_path):
    # on one node, or both would be the first GPU of theirs
    site = write_site(tmp_path, gpus=1, worker="dask", directives=["--nodelist=n1"])

    def seen(dask_worker) -> tuple[str | None, int, float]:
        state = dask_worker.state
        device = os.environ.get("CUDA_VISIBLE_DEVICES")
        return device, state.nthreads, state.total_resources["GPU"]

    with open_cluster(site, workers=2, threads=1) as client:
        client.wait_for_workers(2)
        assert sorted(client.run(seen).values()) == [("0", 1, 1.0), ("1", 1, 1.0)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"partition": "nowhere"}, "SLURM refuses the worker jobs: .*invalid partition"),
        (
            {"python": "/nowhere/python"},
            "worker jobs end without a worker: .*nowhere/python.*No such",
        ),
    ],
)
def test_jobs_that_cannot_work_are_told_in_one_line(slurm, tmp_path, settings, told, monkeypatch):
    monkeypatch.setattr("cte_dask.engine.clusters.slurm._GRACE", 1.0)
    with (
        pytest.raises(ValueError, match=f"(?is)^{told}") as error,
        open_cluster(write_site(tmp_path, **settings)),
    ):
        pass
    assert "\n" not in str(error.value)
    until(lambda: not jobs())


RECIPES = REPOSITORY / "deploy" / "slurm"


def submitted(script: str, small, bank, out, *options: str, arguments=()) -> str:
    """Submit a recipe with smaller wants than its own, and return the job's number."""
    command = ["sbatch", "--parsable", f"--output={out}/job-%j.log", "--cpus-per-task=1", *options]
    rank = [small, "--bank", bank, "--out", out / "RUN", *ARGUMENTS, *arguments]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, RECIPES / script, *rank],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shown(job: str) -> str:
    command = ["scontrol", "show", "job", job, "--oneliner"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def until_state(job: str, state: str, out: Path) -> None:
    until(lambda: f"JobState={state} " in shown(job), lambda: shown(job) + logs(out))


def logs(out: Path) -> str:
    return "".join(path.read_text() for path in sorted(out.glob("job-*.log")))


def test_the_array_recipe_merges_to_the_ranking_of_the_in_process_run(
    slurm, small, bank, in_process, tmp_path
):
    submitted("array.sbatch", small, bank, tmp_path, "--array=3-4", "--mem=2G")
    until(lambda: not jobs(), lambda: logs(tmp_path))
    assert (tmp_path / "RUN" / "ranking.json").exists(), logs(tmp_path)
    assert result_of(tmp_path) == in_process


def marks(out: Path) -> Path:
    """The folder that has a file for every block that is done."""
    return out / "RUN" / "scores.zarr" / "done" / "c"


def test_a_worker_job_cancelled_amid_a_run_is_replaced_and_the_ranking_stays(
    slurm, small, bank, longer_in_process, tmp_path, monkeypatch
):
    """The run is a job itself, its workers are jobs of their own."""
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "1s")
    site = write_site(tmp_path, workers=1)
    arguments = [*LONGER, "--cluster", site]
    job = submitted("rank.sbatch", small, bank, tmp_path, "--mem=2G", arguments=arguments)
    until(marks(tmp_path).exists, lambda: logs(tmp_path), every=0.02)
    [worker] = set(jobs()) - {job}
    subprocess.run(["scancel", worker], check=True)
    until_state(worker, "CANCELLED", tmp_path)
    assert len(list(marks(tmp_path).iterdir())) < 20, "the run was over before its worker was"
    until_state(job, "COMPLETED", tmp_path)
    assert "Restarts=0 " in shown(job)
    assert result_of(tmp_path) == longer_in_process


def process_of(out: Path) -> int:
    """The process of a job's `cte rank`, which is on this host."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"rank" in words and os.fsencode(out / "RUN") in words and b"bash" not in words[0]:
                return int(folder.name)
    raise ProcessLookupError(str(out))


def has_notice(pid: int) -> bool:
    """Whether a USR1 waits for a process that is stopped."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = int(status.partition("ShdPnd:")[2].split()[0], 16)
    return bool(pending >> (signal.SIGUSR1 - 1) & 1)


def test_a_job_at_its_walltime_queues_itself_again_and_ends_with_the_same_ranking(
    slurm, small, bank, longer_in_process, tmp_path
):
    options = ["--mem=2G", "--time=1", "--signal=B:USR1@45"]
    job = submitted("rank.sbatch", small, bank, tmp_path, *options, arguments=LONGER)
    done = marks(tmp_path)
    # SLURM may be early: then the job was told before it had done a block, which is as good
    until(lambda: "Restarts=0 " not in shown(job) or done.exists(), lambda: logs(tmp_path))
    if "Restarts=0 " in shown(job):
        pid = process_of(tmp_path)
        os.kill(pid, signal.SIGSTOP)  # so that it is at its work when the minute ends
        until(lambda: has_notice(pid), lambda: shown(job))
        os.kill(pid, signal.SIGCONT)
    until_state(job, "PENDING", tmp_path)
    # SLURM lets a requeued job wait two minutes; and now it may take the time that it needs
    change = ["scontrol", "update", f"JobId={job}", "StartTime=now+5", "TimeLimit=20"]
    subprocess.run(change, check=True)
    until_state(job, "COMPLETED", tmp_path)
    assert "Restarts=1 " in shown(job)
    assert result_of(tmp_path) == longer_in_process


def test_a_cancelled_job_stays_cancelled(slurm, small, bank, tmp_path):
    job = submitted("rank.sbatch", small, bank, tmp_path, "--mem=2G")
    until(marks(tmp_path).parent.exists, lambda: logs(tmp_path))
    subprocess.run(["scancel", job], check=True)
    until_state(job, "CANCELLED", tmp_path)
    assert "Restarts=0 " in shown(job)


def test_a_scheduler_and_its_workers_in_one_allocation_give_the_same_ranking(
    slurm, small, bank, in_process, tmp_path, monkeypatch
):
    monkeypatch.setenv("CTE_SHARED", str(tmp_path / "shared"))
    monkeypatch.setenv("CTE_INTERFACE", "lo")
    options = ["--ntasks=2", "--mem-per-cpu=2G"]
    job = submitted("allocation.sbatch", small, bank, tmp_path, *options)
    until_state(job, "COMPLETED", tmp_path)
    assert result_of(tmp_path) == in_process
    assert not list((tmp_path / "shared").rglob("*.pem"))
