"""A scheduler that is there: only with its certificate, its versions and its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import dask
import pytest
from distributed import LocalCluster
from processes import quick_workers
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.engine.clusters import open_cluster
from cte_dask.engine.clusters.certificate import environment, write_certificate
from cte_dask.engine.clusters.connection import version_differences

ARGUMENTS = ["--tile", "1,32,32", "--block", "3,3,2", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificate") / "own"


@pytest.fixture(scope="module")
def scheduler(folder) -> Iterator[LocalCluster]:
    """A scheduler that speaks TLS, with one worker process."""
    settings = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    certified = {"host": "tls://127.0.0.1", "security": write_certificate(folder)}
    with quick_workers(), LocalCluster(**settings, **certified) as cluster:
        yield cluster


def trusting(folder):
    """Dask's configuration as the environment variables of a folder's certificate would make it."""
    variables = environment(folder).items()
    named = {k.removeprefix("DASK_").lower().replace("__", "."): v for k, v in variables}
    return dask.config.set({k: v if v != "true" else True for k, v in named.items()})


def rank(target, bank, out, cluster):
    command = ["rank", str(target), "--bank", str(bank), "--out", str(out / "RUN")]
    return CliRunner().invoke(app, [*command, "--cluster", cluster, *ARGUMENTS])


@pytest.mark.slow
def test_with_the_right_certificate_the_ranking_is_that_of_the_in_process_run(
    scheduler, folder, target, bank_path, tmp_path
):
    address = scheduler.scheduler_address
    assert address.startswith("tls://")
    with trusting(folder):
        done = rank(target, bank_path, tmp_path / "tls", address)
    assert done.exit_code == 0, done.output
    assert rank(target, bank_path, tmp_path / "alone", "none").exit_code == 0
    remote, alone = (
        json.loads((tmp_path / name / "RUN" / "ranking.json").read_text())["models"]
        for name in ("tls", "alone")
    )
    assert remote == alone


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        ("another", "its certificate is not the one of this process"),
        (None, "tls:// needs a certificate"),
    ],
)
def test_without_the_right_certificate_one_line_says_so(
    scheduler, target, bank_path, tmp_path, monkeypatch, certificate, message
):
    monkeypatch.setattr("cte_dask.engine.clusters.address.TIMEOUT", "3s")
    address = scheduler.scheduler_address
    if certificate:
        write_certificate(tmp_path / certificate)
    with trusting(tmp_path / certificate) if certificate else dask.config.set():
        done = rank(target, bank_path, tmp_path, address)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: no scheduler answers at {address}")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_plain_connection_to_a_tls_scheduler_is_refused(scheduler, monkeypatch):
    monkeypatch.setattr("cte_dask.engine.clusters.address.TIMEOUT", "3s")
    plain = scheduler.scheduler_address.replace("tls://", "tcp://")
    with pytest.raises(ValueError, match="no scheduler answers"), open_cluster(plain):
        pass


def test_a_scheduler_file_names_the_scheduler(scheduler, folder, tmp_path):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps(scheduler.scheduler.identity()))
    with trusting(folder), open_cluster(str(path)) as client:
        assert client.scheduler.address == scheduler.scheduler_address
    with (
        pytest.raises(ValueError, match=r"no scheduler file .*absent\.json"),
        open_cluster(str(tmp_path / "absent.json")),
    ):
        pass


def test_workers_of_other_versions_are_refused_by_name(scheduler, folder, monkeypatch):
    from cte_dask.engine.clusters import connection

    ours = {**connection.versions(), "torch": "1.0.0"}
    monkeypatch.setattr(
        connection, "version_differences", lambda _, b: version_differences(ours, b)
    )
    with (
        trusting(folder),
        pytest.raises(ValueError, match=r"worker tls://\S+ of tls://\S+ has torch 2\S+ \(here 1"),
        open_cluster(scheduler.scheduler_address),
    ):
        pass


def test_workers_without_this_package_are_refused(tmp_path):
    hide = tmp_path / "hide.py"
    hide.write_text("import sys\nsys.modules['cte_dask'] = None\n")
    command = [sys.executable, "-m", "distributed.cli.dask_worker"]
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--preload", str(hide)]
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        worker = subprocess.Popen(
            [*command, cluster.scheduler_address, *options],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DASK_LOCAL_DIRECTORY": str(tmp_path)},
        )
        try:
            while not cluster.scheduler_info["workers"]:
                assert worker.poll() is None
                time.sleep(0.05)
            with (
                pytest.raises(ValueError, match=r"cannot run cte_dask \(.*install the same"),
                open_cluster(cluster.scheduler_address),
            ):
                pass
        finally:
            worker.terminate()
            worker.wait()


def test_a_scheduler_without_workers_is_told(monkeypatch):
    monkeypatch.setattr("cte_dask.engine.clusters.address.PATIENCE", 1)
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ValueError, match="has no workers"),
        open_cluster(cluster.scheduler_address),
    ):
        pass


def test_the_key_is_for_its_owner_alone(folder, scheduler):
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_certificate_command_prints_what_dask_needs(tmp_path):
    command = [sys.executable, "-m", "cte_dask.engine.clusters.certificate", str(tmp_path / "new")]
    exports = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = dict(line.removeprefix("export ").split("=") for line in exports.splitlines())
    assert {k: v.strip("'") for k, v in lines.items()} == environment(tmp_path / "new")
    assert "KEY" in (tmp_path / "new" / "key.pem").read_text()
