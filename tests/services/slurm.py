"""A real SLURM on this machine for the time of a test run: its own key, ports, state and nodes.

Two slurmd on one host play two nodes of two cores. The GPUs are device files that no driver is
behind: SLURM counts them and sets CUDA_VISIBLE_DEVICES for each job.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
NODES, CPUS, GPUS = 2, 2, 2
SECONDS = 1500.0

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=120
SlurmctldTimeout=120
InactiveLimit=0
KillWait=5
MinJobAge=300
SlurmdParameters=config_overrides
DefMemPerCPU=500
PropagateResourceLimits=NONE
GresTypes=gpu
"""


def what_is_missing() -> str:
    """Return why SLURM cannot be started here, empty if it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: make services"
    return "" if os.geteuid() == 0 else "SLURM's daemons want to be started by root"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Start SLURM in a folder and yield its slurm.conf; ends every process that it started."""
    folder.chmod(0o755)  # munged refuses a socket that others cannot reach
    conf = _configured(folder)
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    pids = [folder / "slurmctld.pid", *(folder / f"slurmd.n{i}.pid" for i in _nodes())]
    try:
        _start_munge(folder)
        for command in (["slurmctld", "-c"], *(["slurmd", "-N", f"n{i}"] for i in _nodes())):
            subprocess.run([*command, "-f", conf], check=True, env=environment)
        command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
        until(
            lambda: len(_output(command, environment).split()) == NODES,
            lambda: _tail(folder),
        )
        yield conf
    finally:
        _output(["scancel", "--user=root"], environment)
        for path in [*pids, folder / "munged.pid"]:
            _end(path)


def until(
    condition: Callable[[], bool],
    state: Callable[[], str] = lambda: "",
    *,
    limit: float = SECONDS,
    every: float = 0.1,
) -> None:
    """Wait for a condition; only a machine that hangs ever meets the limit."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {limit:g} s {state()}")
        time.sleep(every)


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _nodes() -> range:
    return range(1, NODES + 1)


def _configured(folder: Path) -> Path:
    host = socket.gethostname().partition(".")[0]
    port, *ports = free_ports(1 + NODES)
    lines = [CONFIGURATION.format(host=host, port=port, folder=folder)]
    lines += [
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={p} CPUs={CPUS} "
        f"RealMemory=8000 Gres=gpu:{GPUS} State=UNKNOWN\n"
        for i, p in zip(_nodes(), ports, strict=True)
    ]
    lines.append(f"PartitionName=main Nodes=n[1-{NODES}] Default=YES MaxTime=INFINITE State=UP\n")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text("".join(lines))
    _write_devices(folder)
    return folder / "slurm.conf"


def _write_devices(folder: Path) -> None:
    rows = []
    for number in range(GPUS):
        device = folder / f"nvidia{number}"
        os.mknod(device, 0o20666, os.makedev(1, 3))  # slurmd wants a device: this one is /dev/null
        rows.append(f"Name=gpu File={device}\n")
    (folder / "gres.conf").write_text("".join(rows))


def _start_munge(folder: Path) -> None:
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    names = {"key-file": "key", "socket": "socket", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{name}" for option, name in names.items()]
    subprocess.run(["munged", "--force", f"--pid-file={folder}/munged.pid", *options], check=True)


def _output(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def _end(pid_file: Path) -> None:
    if not pid_file.exists() or not (text := pid_file.read_text().strip()):
        return
    pid = int(text)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            until(lambda: not _alive(pid), limit=20)
            return


def _alive(pid: int) -> bool:
    try:
        # a container may have nobody who reaps: a zombie has ended
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _tail(folder: Path) -> str:
    logs = sorted(folder.glob("*.log"))
    return "\n".join("\n".join(log.read_text().splitlines()[-10:]) for log in logs)
