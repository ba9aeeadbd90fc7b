"""A folder in which the commands of the documentation run as they stand, on small things."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import blobs, write_bank
from documents.pages import REPOSITORY
from services.slurm import free_ports
from troubled import cte

from cte_dask.volume import write_ome_zarr

SHAPE = (4, 96, 128)
SECONDS = 500
SMALLER = {
    # a page tells what is usual; here is less, or what this machine has
    r"--workers 4\b": "--workers 1",
    r"--nworkers 4\b": "--nworkers 1",
    r"--steps 300\b": "--steps 5",
    r"--array=1-20\b": "--array=1-2",
    r"--ntasks=20\b": "--ntasks=2",
    r"--pilot-tiles 16\b": "--pilot-tiles 4",
    r"127\.0\.0\.1:8787\b": "127.0.0.1:0",
    r"(export PYTHONPATH=\S+)": r"\1:$PYTHONPATH",
    r"(BANK=\$\(python .*\))": r"\1\nBANK=bank.yaml",  # in place of the demonstration's nine models
}


def write_template(folder: Path) -> Path:
    """Write what commands take for granted: a target with labels, a bank, a run of them.

    The demonstration's folder is there too, with the small bank in place of its nine models.
    """
    write_bank(folder, 5)  # so many that they judge each other
    image = blobs(SHAPE)
    labels = {"nuclei": (image > 128).astype(np.int32)}
    for target, run in (("TARGET", "RUN"), ("demo-run/target.zarr", "demo-run/run")):
        write_ome_zarr(
            folder / target,
            image,
            axes="zyx",
            voxel_size_nm=(40.0, 10.0, 10.0),
            chunks=(1, 48, 64),
            version="0.5",
            labels=labels,
        )
        words = [folder / target, "--bank", folder / "bank.yaml", "--out", folder / run]
        done = cte("rank", *words, "--cluster", "none", "--quiet")
        assert done.exit_code == 0, done.output
    (folder / "target.zarr").symlink_to("TARGET")
    for recipe in sorted((REPOSITORY / "deploy" / "slurm").glob("*.sbatch")):
        shutil.copy(recipe, folder)
    scripts = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "examples", folder / "examples", ignore=scripts)
    (folder / "DIR").mkdir()
    split = np.array(["train", "train", "train", "test"])
    pack = {"raw": image, "label": labels["nuclei"].astype(np.uint8), "split": split}
    np.savez(folder / "DIR" / "n_dsb_b256_fibro.npz", **pack)
    return folder


def copied(template: Path, folder: Path) -> Path:
    """Return a world of one's own. Its run still reads the template's target."""
    return Path(shutil.copytree(template, folder, symlinks=True))


def smaller(text: str) -> str:
    """Return commands with less to do, and on a port that is free."""
    text = re.sub(r"\b8786\b", str(free_ports(1)[0]), text)
    for pattern, instead in SMALLER.items():
        text = re.sub(pattern, instead, text)
    return text


def in_this_process(text: str) -> str:
    """Return commands of which those that name no cluster run without one, to save time."""
    scored = re.compile(
        r"^(cte (?:rank|calibrate|evaluate) (?!.*--cluster).*?)(\s+#.*)?$", re.MULTILINE
    )
    return scored.sub(r"\1 --cluster none", text)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a shell in a world: this package and Python, a home of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CTE_", "DASK_"))}
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    program = programs / "cte"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cte_dask.cli "$@"\n')
    program.chmod(0o755)
    modules = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        "HOME": str(folder),
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(modules),
        "OMP_NUM_THREADS": "1",
    }


def run_script(script: str, folder: Path, **more: str) -> tuple[int, str]:
    """Run lines as a shell does, and end what they left running; returns exit code and output."""
    log = folder / "output.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**environment(folder), **more},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(SECONDS)
        finally:
            _end_group(process.pid)
            process.wait(20)
    return process.returncode, log.read_text()


def _end_group(leader: int) -> None:
    """End what a shell of ours has started: it leads a session of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(leader, number)
        except ProcessLookupError:
            return
