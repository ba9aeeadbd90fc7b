"""The settings of one computing site: a YAML file, checked strictly."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from cte_dask.models.yaml import Strict, one_line

__all__ = ["CudaSite", "Site", "SlurmSite", "read_site", "seconds"]

SCHEMA = "cte-site/1"
_WALLTIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d\d)")


class SlurmSite(Strict):
    """How worker jobs are asked of SLURM.

    Parameters
    ----------
    workers, minimum
        Most, and fewest, worker processes at a time; the fewest are all of them by default, and
        a worker that is lost is asked for again.
    gpus
        GPUs of a job, each with one worker process; 0 for a CPU worker a job.
    cpus, memory
        Cores and memory of each worker process.
    gres
        What ``--gres`` asks for, if not ``gpu:<gpus>``; such as ``gpu:a100:1``.
    worker
        ``dask-cuda`` starts ``dask cuda worker``, ``dask`` the plain one, which sees the GPU that
        SLURM gave its job; ``auto`` is dask-cuda where there are GPUs.
    rmm_pool
        Device memory that dask-cuda's RMM pool starts with, as a part of the GPU's; it is shared
        by torch and CuPy. 0 leaves both to their own.
    partition, account, qos, walltime
        What sbatch takes under these names. Workers stop a while before the walltime, each at
        another moment.
    interface
        Network interface of scheduler and workers, such as ``ib0``.
    shared
        Folder that all hosts see: certificates and the logs of jobs.
    scratch
        Folder on the workers' own disks, such as ``$TMPDIR``.
    prologue
        Lines of the job script before the worker starts.
    directives
        Further lines after ``#SBATCH``.
    python
        Interpreter of the workers; this one by default.
    """

    workers: int = Field(4, ge=1)
    minimum: int | None = Field(None, ge=0)
    gpus: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    memory: str = "4GiB"
    gres: str | None = None
    worker: Literal["auto", "dask", "dask-cuda"] = "auto"
    rmm_pool: float = Field(0.5, ge=0, lt=1)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    walltime: str = "01:00:00"
    interface: str | None = None
    shared: str = "~/.cache/cte_dask/slurm"
    scratch: str | None = None
    prologue: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()
    python: str | None = None

    @field_validator("walltime", mode="before")
    @classmethod
    def _read_walltime(cls, text: Any) -> Any:
        # YAML 1.1 reads 4:00:00 without quotes as a number in base 60
        if isinstance(text, int):
            text = f"{text // 3600:02d}:{text // 60 % 60:02d}:{text % 60:02d}"
        seconds(str(text))
        return text


class CudaSite(Strict):
    """How the GPUs of this machine are used.

    Parameters
    ----------
    devices
        Numbers of the GPUs; all by default.
    rmm_pool
        Device memory that dask-cuda's RMM pool starts with, as a part of the GPU's; 0 for no pool.
    """

    devices: tuple[int, ...] | None = None
    rmm_pool: float = Field(0.5, ge=0, lt=1)


class Site(Strict):
    """Content of a site file: the key ``schema`` and one section a kind of cluster."""

    slurm: SlurmSite = SlurmSite()
    cuda: CudaSite = CudaSite()

    @classmethod
    def read(cls, path: Path) -> Site:
        """Read a site file.

        Raises
        ------
        ValueError
            Naming the file and the key or value that is wrong.
        """
        try:
            document = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            raise ValueError(f"site file {path} cannot be read: {error.strerror}") from error
        except yaml.YAMLError as error:
            fault = " ".join(str(error).split())
            raise ValueError(f"site file {path} is not YAML: {fault}") from error
        if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
            raise ValueError(f"site file {path}: it must say schema: {SCHEMA}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise ValueError(f"site file {path}: {one_line(error)}") from error


def read_site(name: str) -> Site:
    """Return the site that a cluster option names.

    Parameters
    ----------
    name
        ``slurm`` or ``slurm:FILE`` (``cuda`` alike); without a file, the one that the environment
        variable ``CTE_SITE`` names, else the defaults.

    Raises
    ------
    ValueError
        If the file cannot be read or is wrong.
    """
    file = name.partition(":")[2] or os.environ.get("CTE_SITE", "")
    return Site.read(Path(file).expanduser()) if file else Site()


def seconds(walltime: str) -> int:
    """Return a SLURM walltime (``[D-][HH:]MM:SS``) in seconds.

    Raises
    ------
    ValueError
        If it is not one.

    Examples
    --------
    >>> seconds("01:30:00"), seconds("1-00:00:00"), seconds("10:00")
    (5400, 86400, 600)
    """
    match = _WALLTIME.fullmatch(walltime)
    if match is None:
        raise ValueError(f"walltime {walltime!r} is not of the form HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, rest = (int(number or 0) for number in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
