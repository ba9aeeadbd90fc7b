"""What ``cte doctor`` finds out: versions, extras, devices, memory, and a store's answer.

``cte doctor``: whether this machine is ready, and what to do where it is not.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cte_dask.cli.console import clear_errors
from cte_dask.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Finding", "doctor", "examine", "extras_of"]

State = Literal["ok", "absent", "bad"]
OPTIONAL_FOR = {
    "cuda12": "NVIDIA GPUs, CUDA 12",
    "cuda13": "NVIDIA GPUs, CUDA 13",
    "slurm": "--cluster slurm",
    "http": "targets and models over http(s)",
    "s3": "targets on S3",
    "gcs": "targets on Google Cloud Storage",
    "azure": "targets on Azure Blob Storage",
    "bioimageio": "models of the BioImage.IO zoo",
    "onnx": "ONNX networks",
    "report": "the pictures of calibrate and evaluate",
    "segment": "watersheds, mutex watershed, multicut, GASP",
}
FOR_DEVELOPERS = {"test", "dev"}
SCHEMES = {
    "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure",
    "abfss": "azure", "adl": "azure", "http": "http", "https": "http",
}  # fmt: skip
"""Which extra reads URLs of which scheme."""

TOLD = ("cte-dask", "torch", "dask", "distributed", "zarr", "numpy", "numba", "xarray", "fsspec")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    group
        ``versions``, ``extras``, ``machine`` or ``store``.
    name
        What was looked at.
    state
        ``ok``; ``absent``: not there, which only some uses need; ``bad``: will not work.
    told
        What was found.
    remedy
        What to do; empty if nothing is to be done.
    """

    group: str
    name: str
    state: State
    told: str
    remedy: str = ""


def examine(url: str | None = None) -> list[Finding]:
    """Look at this installation and machine, and at a store if a URL is given.

    Parameters
    ----------
    url
        Path or URL of a target; its metadata and one chunk are read.

    Returns
    -------
    list of Finding
        Nothing is raised: what does not work is a finding with its remedy.
    """
    found = [*_versions(), *_extras(), *_machine()]
    return found if url is None else [*found, _store(url)]


def _versions() -> Iterator[Finding]:
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("versions", "python", "ok", told)
    for name in TOLD:
        try:
            yield Finding("versions", name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            remedy = "pip install cte-dask"
            yield Finding("versions", name, "bad", "not installed", remedy)


def extras_of(distribution: str = "cte-dask") -> dict[str, list[str]]:
    """Return what each extra still lacks here: requirements that are not met.

    Parameters
    ----------
    distribution
        An installed distribution.

    Returns
    -------
    dict
        Extra → unmet requirements, empty where it is complete.
    """
    from packaging.requirements import Requirement

    declared = metadata.distribution(distribution)
    names = declared.metadata.get_all("Provides-Extra") or []
    missing: dict[str, list[str]] = {name: [] for name in names}
    within: dict[str, set[str]] = {name: set() for name in names}
    for text in declared.requires or []:
        requirement = Requirement(text)
        for extra in names:
            marker = requirement.marker
            if marker is None or not marker.evaluate({"extra": extra}) or marker.evaluate():
                continue
            if requirement.name == distribution:
                within[extra] |= requirement.extras
            elif not _met(requirement.name, requirement.specifier.contains):
                missing[extra].append(f"{requirement.name}{requirement.specifier}")
    for extra, others in within.items():
        missing[extra] += [need for other in sorted(others) for need in missing.get(other, [])]
    return missing


def _met(name: str, accepted: object) -> bool:
    try:
        return bool(accepted(metadata.version(name), prereleases=True))  # type: ignore[operator]
    except metadata.PackageNotFoundError:
        return False


def _extras() -> Iterator[Finding]:
    try:
        missing = extras_of()
    except metadata.PackageNotFoundError:
        return
    for name, needs in missing.items():
        if name in FOR_DEVELOPERS:
            continue
        use = OPTIONAL_FOR.get(name, "")
        if needs:
            told = f"{use}; missing: {', '.join(needs)}"
            yield Finding("extras", name, "absent", told, f"pip install 'cte-dask[{name}]'")
        else:
            yield Finding("extras", name, "ok", use)


def _machine() -> Iterator[Finding]:
    usable, limit = len(os.sched_getaffinity(0)), _cgroup_cores()
    told = f"{usable} usable of {os.cpu_count()}"
    if limit < usable:
        remedy = f"give --workers {max(1, int(limit))}"
        yield Finding("machine", "cores", "ok", f"{told}, limited to {limit:g}", remedy)
    else:
        yield Finding("machine", "cores", "ok", told)
    variable = os.environ.get("OMP_NUM_THREADS")
    said = f"OMP_NUM_THREADS={variable}" if variable else "OMP_NUM_THREADS is not set"
    yield Finding("machine", "threads", "ok", f"{said}; workers use --threads (1) each")
    yield _memory()
    yield from _devices()


def _cgroup_cores() -> float:
    """Return how many cores the control group allows (Linux), infinity where it does not say."""
    quota, _, period = _first_line("/sys/fs/cgroup/cpu.max").partition(" ")
    return float(quota) / float(period) if quota.isdecimal() and period.isdecimal() else math.inf


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _memory() -> Finding:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    limit = _first_line("/sys/fs/cgroup/memory.max")
    if limit.isdecimal() and int(limit) < total:
        return Finding("machine", "memory", "ok", f"{int(limit) / 1e9:.1f} GB, by a control group")
    return Finding("machine", "memory", "ok", f"{total / 1e9:.1f} GB")


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a library that it needs may be missing
        remedy = "pip install --force-reinstall torch"
        yield Finding("machine", "torch", "bad", f"cannot be loaded: {error}", remedy)
        return
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
        told = built if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        yield Finding("machine", "GPU", "absent", f"none seen; {told}", "--device cpu")
        return
    for number in range(torch.cuda.device_count()):
        has = torch.cuda.get_device_properties(number)
        told = f"{has.name}, {has.total_memory / 1e9:.0f} GB, compute {has.major}.{has.minor}"
        yield Finding("machine", f"GPU {number}", "ok", told)
    if not any(_met(name, lambda *_, **__: True) for name in ("cupy-cuda12x", "cupy-cuda13x")):
        major = str(torch.version.cuda).partition(".")[0]
        remedy = f"pip install 'cte-dask[cuda{major}]'"
        yield Finding("machine", "cupy", "bad", "not installed; --device cuda needs it", remedy)


def _store(url: str) -> Finding:
    from cte_dask.errors import reason
    from cte_dask.results.session_log import shown_url
    from cte_dask.volume import open_volume

    name = shown_url(url)
    began = time.perf_counter()
    try:
        volume = open_volume(url)
        opened = time.perf_counter()
        volume.read((0, 0, 0), (1, 1, 1))
    except Exception as error:  # whatever a file system raises is what this is to find out
        return Finding("store", name, "bad", reason(error).replace(url, name), _remedy(url))
    size = volume.dtype.itemsize * math.prod(volume.chunks) / 1e6
    shape = "×".join(map(str, volume.shape))
    told = (
        f"{volume.dtype.name} {shape} (zyx), level {volume.level}, voxels "
        f"{volume.voxel_size or 'of unknown size'}; metadata in {opened - began:.2f} s, a chunk of "
        f"{size:.3g} MB in {time.perf_counter() - opened:.2f} s"
    )
    return Finding("store", name, "ok", told)


def _remedy(url: str) -> str:
    scheme, separator, _ = url.rpartition("::")[2].partition("://")
    extra = SCHEMES.get(scheme) if separator else None
    try:
        lacks = extra is not None and extras_of().get(extra, [])
    except metadata.PackageNotFoundError:
        lacks = []
    if lacks:
        return f"pip install 'cte-dask[{extra}]'"
    if extra is not None:
        return "check address, network and credentials (as fsspec takes them)"
    return "check the path; --axes, --channel or --time may be needed"


SIGNS = {"ok": "✓", "absent": "–", "bad": "✗"}
BAD = 2


def doctor(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]", help="Path or URL of a target, to see whether it opens."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what this machine has, and whether a target opens."""
    with clear_errors():
        from cte_dask.report.terminal.tables import output

        found = examine(url)
        if as_json:
            print(json.dumps([asdict(f) for f in found], indent=1))
        else:
            output().print(_table(found))
    raise typer.Exit(BAD if any(f.state == "bad" for f in found) else 0)


def _table(found: list[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="cte doctor", title_justify="left")
    for heading in ("", "what", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    group = found[0].group
    for finding in found:
        if finding.group != group:
            table.add_section()
            group = finding.group
        cells = (SIGNS[finding.state], finding.name, finding.told, finding.remedy)
        table.add_row(*map(Text, cells))
    return table
