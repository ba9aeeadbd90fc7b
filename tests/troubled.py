"""Runs with every kind of trouble in them, to report on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conftest import blobs, write_bank, write_model
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.volume import write_ome_zarr

EVIL = "<script>alert(1)</script>\"'&"
SHAPE, TILE = (4, 96, 128), (1, 32, 32)
VOXEL_NM = (40.0, 10.0, 10.0)


def cte(*arguments: str | Path):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def write_run(folder: Path) -> Path:
    """Rank a model with a hostile name, one that predicts everything, and one that is broken.

    A corner of the target is masked. Bank and target lie beside the run.
    """
    bank = write_bank(folder / "bank", 3)
    hostile = "'" + EVIL.replace("'", "''") + "'"
    text = bank.read_text().replace("\n  model-1:", f"\n  {hostile}:")
    text = text.replace("\n  model-2:", "\n  broken:")
    (folder / "bank" / "model-2.safetensors").write_bytes(b"<b>nothing</b>")
    first = text[text.index("\n  model-0:") : text.index(f"\n  {hostile}:")]
    bank.write_text(text + first.replace("model-0", "flood"))
    write_flood(folder / "bank" / "flood.safetensors")
    mask = np.ones(SHAPE, np.uint8)
    mask[:, :32, :32] = 0
    for name, image in (("target", blobs(SHAPE)), ("mask", mask)):
        path = folder / f"{name}.zarr"
        write_ome_zarr(path, image, axes="zyx", voxel_size_nm=VOXEL_NM, chunks=(2, 64, 64))
    out = folder / "RUN"
    tile = ",".join(map(str, TILE))
    options = ["--cluster", "none", "--tile", tile, "--quiet", "--mask", folder / "mask.zarr"]
    options += ["--perturb", "dropout:0.2", "--perturb", "gaussian:0.1"]
    done = cte("rank", folder / "target.zarr", "--bank", bank, "--out", out, *options)
    assert done.exit_code == 3, done.output  # the broken model is excluded
    return out


def write_flood(path: Path) -> None:
    """Weights of a network that calls everything foreground."""
    write_model(path, seed=0)
    weights = load_file(path)
    weights["head.bias"] = weights["head.bias"] + 1000
    save_file(weights, path)
