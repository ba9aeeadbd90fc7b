"""SLURM: one job a worker (or several GPUs a job), asked for through dask-jobqueue.

The scheduler lives in this process, speaks TLS only, and workers that are lost (cancelled,
preempted, at their walltime) are asked for again.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cte_dask.engine.clusters import ClusterKind
from cte_dask.engine.clusters.certificate import write_certificate
from cte_dask.engine.clusters.connection import SETTINGS, check_workers
from cte_dask.engine.clusters.site import SlurmSite, read_site, seconds
from cte_dask.inference.forked import process_environment

if TYPE_CHECKING:
    from distributed import Client, Security

__all__ = ["SLURM", "job_arguments", "open_slurm", "slurm_workers"]

PREEMPTIONS = 5
"""Workers that may die with a block before the block is called failed: queues do preempt."""
COMMANDS = {"dask": "distributed.cli.dask_worker", "dask-cuda": "dask_cuda.cli worker"}
LOOPBACK = "127.0.0.1:0"
_POLL = 1.0
_GRACE = 10.0


def slurm_workers(name: str, _threads: int) -> int:
    """Return how many worker processes a site's SLURM is asked for."""
    return read_site(name).slurm.workers


@contextmanager
def open_slurm(name: str, *, workers: int, threads: int) -> Iterator[Client]:
    """Ask SLURM for worker jobs and wait for the first.

    Parameters
    ----------
    name
        ``slurm`` or ``slurm:FILE``, see `cte_dask.engine.clusters.site.read_site`.
    workers
        Most worker processes at a time.
    threads
        Threads that inference uses in each.

    Raises
    ------
    ValueError
        If dask-jobqueue or SLURM is missing, SLURM refuses the job, or jobs end without a worker.
    """
    import dask
    from distributed import Client

    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise ValueError(f"--cluster slurm needs pip install 'cte-dask[slurm]': {error}") from error
    if shutil.which("sbatch") is None:
        raise ValueError("--cluster slurm needs SLURM's commands (sbatch) on this machine's PATH")
    site = read_site(name).slurm
    settings = {**SETTINGS, "distributed.scheduler.allowed-failures": PREEMPTIONS}
    with _run_folder(site) as folder, dask.config.set(settings):
        arguments = job_arguments(site, folder, write_certificate(folder), threads=threads)
        with SLURMCluster(**arguments) as cluster, Client(cluster) as client:
            _try_out(cluster)
            least = workers if site.minimum is None else min(site.minimum, workers)
            cluster.adapt(minimum=least, maximum=workers)
            _wait_for_a_worker(client, cluster, folder)
            check_workers(client, name)
            yield client


SLURM = ClusterKind(
    open_slurm,
    workers=slurm_workers,
    gpus=lambda name: read_site(name).slurm.gpus > 0,
    form="slurm[:SITE]",
)
"""Jobs of SLURM."""


def job_arguments(
    site: SlurmSite, folder: Path, security: Security, *, threads: int
) -> dict[str, Any]:
    """Return what dask-jobqueue's SLURMCluster is called with.

    Parameters
    ----------
    site
        The settings.
    folder
        Folder of this run that all hosts see; the jobs write their logs into it.
    security
        With the paths of the certificate.
    threads
        Threads that inference uses in each worker.
    """
    processes = max(1, site.gpus)
    command = site.worker if site.worker != "auto" else "dask-cuda" if site.gpus else "dask"
    exports = [f"export {k}={v}" for k, v in process_environment(threads).items()]
    return {
        "queue": site.partition,
        "account": site.account,
        "walltime": site.walltime,
        "cores": processes,  # Dask's threads: one a worker, a task is a whole block
        "processes": processes,
        "job_cpu": processes * max(site.cpus, threads),
        "memory": _times(site.memory, processes),
        "interface": site.interface,
        "local_directory": site.scratch,
        "log_directory": str(folder),
        "python": site.python,
        "worker_command": COMMANDS[command],
        "worker_extra_args": [*_lifetime(site.walltime), *_device(site, command), *_QUIET],
        "job_extra_directives": [*_directives(site), *site.directives],
        "job_script_prologue": [*exports, *site.prologue],
        "security": security,
        "shared_temp_directory": str(folder),
        "scheduler_options": {"dashboard_address": LOOPBACK},
    }


# the worker's own web page knows no login
_QUIET = ("--no-dashboard", "--dashboard-address", LOOPBACK)


def _lifetime(walltime: str) -> list[str]:
    """Stop before SLURM would kill, each worker at another moment, so that blocks find a home."""
    total = seconds(walltime)
    stagger = min(120, total // 10)
    # Dask draws each life within the stagger of this one: two staggers are left for the last block
    lifetime = f"{total - 3 * stagger}s"
    return ["--lifetime", lifetime, "--lifetime-stagger", f"{stagger}s"]


def _device(site: SlurmSite, command: str) -> list[str]:
    if not site.gpus:
        return []
    resources = ["--resources", "GPU=1"]
    if command == "dask-cuda" and site.rmm_pool:
        pool = ["--rmm-pool-size", str(site.rmm_pool)]
        return [*resources, *pool, "--rmm-allocator-external-lib-list", "torch,cupy"]
    return resources


def _directives(site: SlurmSite) -> list[str]:
    # we ask for lost workers ourselves: a job that SLURM requeues would come on top
    options = ["--no-requeue"]
    if site.qos:
        options.append(f"--qos={site.qos}")
    if site.gpus:
        options.append(f"--gres={site.gres or f'gpu:{site.gpus}'}")
    return options


def _times(memory: str, processes: int) -> str:
    """Return the memory of a job of some processes, as Dask writes sizes."""
    from dask.utils import parse_bytes

    return f"{parse_bytes(memory) * processes}B"


@contextmanager
def _run_folder(site: SlurmSite) -> Iterator[Path]:
    """Make a folder of this run on the shared disk; what is secret in it goes with the run."""
    shared = Path(site.shared).expanduser()
    try:
        shared.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=shared))
    except OSError as error:
        raise ValueError(
            f"the site's folder shared: {shared} cannot be written: {error.strerror}"
        ) from error
    try:
        yield folder
    finally:
        for secret in folder.glob("*.pem"):
            secret.unlink()


def _try_out(cluster: Any) -> None:
    """Ask SLURM whether it would take such a job: later, nobody would hear it refuse."""
    answer = _answer("sbatch", "--test-only", script=cluster.job_script())
    if answer.returncode:
        raise ValueError(f"SLURM refuses the worker jobs: {' '.join(answer.stderr.split())}")


def _answer(command: str, *options: str, script: str = "") -> subprocess.CompletedProcess[str]:
    """Return what a command of SLURM's answers, its exit status unchecked."""
    return subprocess.run(  # noqa: S603 - SLURM's own commands, wherever a site has them
        [shutil.which(command) or command, *options],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )


def _wait_for_a_worker(client: Client, cluster: Any, folder: Path) -> None:
    ended = None  # since when SLURM has no job of ours, and no worker came
    while not client.nthreads():
        ended = None if _queued(cluster) else ended or time.monotonic()
        if ended and time.monotonic() - ended > _GRACE:
            raise ValueError(f"worker jobs end without a worker: {_last_words(folder)}")
        time.sleep(_POLL)


def _queued(cluster: Any) -> bool:
    """Whether SLURM still has a job of ours, waiting or running; True before any was asked for."""
    ids = [job.job_id for job in cluster.workers.values() if job.job_id]
    if not ids:
        return True
    answer = _answer("squeue", "--noheader", "--format=%i", f"--jobs={','.join(ids)}")
    return bool(answer.stdout.strip())


def _last_words(folder: Path) -> str:
    """Return the last line of the newest job's log: most often it names what went wrong."""
    logs = sorted(folder.glob("*.err"), key=lambda p: p.stat().st_mtime)
    words = [line for log in logs[-1:] for line in log.read_text(errors="replace").splitlines()]
    return f"{words[-1].strip()} (see {folder})" if words else f"they left no log in {folder}"
