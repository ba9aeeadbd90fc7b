"""``cte doctor``: whether this machine and a target are ready, and the remedy where not.

It checks versions, extras, devices, memory, and a target.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cte_dask.cli.console import clear_errors
from cte_dask.cli.doctor_target import examine_target
from cte_dask.cli.findings import Finding
from cte_dask.cli.options import JsonOption, expanded
from cte_dask.scoring.settings import OpeningOptions

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Finding", "doctor", "examine", "extras_of"]

OPTIONAL_FOR = {
    "cuda12": "NVIDIA GPUs, CUDA 12",
    "cuda13": "NVIDIA GPUs, CUDA 13",
    "slurm": "--cluster slurm",
    "http": "targets and models over http(s)",
    "s3": "targets on S3",
    "gcs": "targets on Google Cloud Storage",
    "azure": "targets on Azure Blob Storage",
    "bioimageio": "models of the BioImage.IO zoo",
    "h5": "targets in HDF5 files",
    "labels": "tiles to label: cte suggest, cte rank --labels",
    "monai": "MONAI bundles",
    "mrc": "targets in MRC files",
    "nnunet": "models of nnU-Net v2",
    "onnx": "ONNX networks",
    "openvino": "--runtime openvino: networks compiled for the processor",
    "report": "the pictures of calibrate and evaluate",
    "segment": "watersheds, mutex watershed, multicut, GASP",
    "tensorstore": "targets in N5 and Neuroglancer precomputed",
    "tiff": "targets in TIFF files and folders of planes",
}
FOR_DEVELOPERS = {"test", "dev"}
SCHEMES = {
    "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure",
    "abfss": "azure", "adl": "azure", "http": "http", "https": "http",
}  # fmt: skip
"""URL scheme → the extra that reads it."""

PACKAGES = (
    "cte-dask",
    "torch",
    "dask",
    "distributed",
    "zarr",
    "numpy",
    "numba",
    "xarray",
    "fsspec",
)


def examine(target: str | None = None, options: OpeningOptions | None = None) -> list[Finding]:
    """Check this installation and machine, and a target if there is one.

    Parameters
    ----------
    target
        Path or URL of a target; its metadata and one chunk are read.
    options
        What is taken of it, as by `cte rank`; None for its defaults.

    Returns
    -------
    list of Finding
        Nothing is raised: a failure is a finding with its remedy.
    """
    findings = [*_versions(), *_extras(), *_machine()]
    if target is None:
        return findings
    return [*findings, *examine_target(target, options or OpeningOptions(), place_remedy)]


def _versions() -> Iterator[Finding]:
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("versions", "python", "ok", system)
    for name in PACKAGES:
        try:
            yield Finding("versions", name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            remedy = "pip install cte-dask"
            yield Finding("versions", name, "bad", "not installed", remedy)


def extras_of(distribution: str = "cte-dask") -> dict[str, list[str]]:
    """Return the requirements of each extra that are not met here.

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
            # A requirement belongs to an extra if its marker holds with the extra and not without.
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
            message = f"{use}; missing: {', '.join(needs)}"
            yield Finding("extras", name, "absent", message, f"pip install 'cte-dask[{name}]'")
        else:
            yield Finding("extras", name, "ok", use)


def _machine() -> Iterator[Finding]:
    usable, limit = len(os.sched_getaffinity(0)), _cgroup_cores()
    cores = f"{usable} usable of {os.cpu_count()}"
    if limit < usable:
        remedy = f"give --workers {max(1, int(limit))}"
        yield Finding("machine", "cores", "ok", f"{cores}, limited to {limit:g}", remedy)
    else:
        yield Finding("machine", "cores", "ok", cores)
    variable = os.environ.get("OMP_NUM_THREADS")
    setting = f"OMP_NUM_THREADS={variable}" if variable else "OMP_NUM_THREADS is not set"
    yield Finding("machine", "threads", "ok", f"{setting}; workers use --threads (1) each")
    yield _memory()
    yield from _devices()


def _cgroup_cores() -> float:
    """Return the cores that the control group allows (Linux), infinity if it sets no limit."""
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
        cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        message = f"none seen; torch {torch.__version__} is built {cuda}"
        yield Finding("machine", "GPU", "absent", message, "--device cpu")
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        compute = f"{properties.major}.{properties.minor}"
        message = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, compute {compute}"
        yield Finding("machine", f"GPU {number}", "ok", message)
    if not any(_met(name, lambda *_, **__: True) for name in ("cupy-cuda12x", "cupy-cuda13x")):
        major = str(torch.version.cuda).partition(".")[0]
        remedy = f"pip install 'cte-dask[cuda{major}]'"
        yield Finding("machine", "cupy", "bad", "not installed; --device cuda needs it", remedy)


def place_remedy(url: str) -> str:
    """Return what may help where the system refuses what lies at a path or URL; may be empty."""
    # Chained URLs of fsspec, such as simplecache::s3://…: the last protocol does the reading.
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
    # what is there and does not open says itself what to do
    return "" if os.path.exists(url.removeprefix("file://").partition("::")[0]) else CHECK_PATH


CHECK_PATH = "check the path"
SIGNS = {"ok": "✓", "absent": "–", "bad": "✗"}
BAD = 2


@expanded
def doctor(
    options: OpeningOptions,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]", help="Path or URL of a target, to see whether and as what it opens."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what this machine has, and as what a target opens."""
    with clear_errors():
        from cte_dask.report.terminal.tables import output

        findings = examine(target, options)
        if as_json:
            print(json.dumps([asdict(f) for f in findings], indent=1))
        else:
            output().print(_table(findings))
    raise typer.Exit(BAD if any(f.state == "bad" for f in findings) else 0)


def _table(findings: list[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="cte doctor", title_justify="left")
    for heading in ("", "what", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    group = findings[0].group
    for finding in findings:
        if finding.group != group:
            table.add_section()
            group = finding.group
        cells = (SIGNS[finding.state], finding.name, finding.told, finding.remedy)
        table.add_row(*map(Text, cells))
    return table
