"""Scoring on a device from end to end, against bare passes and the authors' procedure.

Needs neither Dask nor zarr: the target lies in the memory of the host. What the models' package
needs beside torch (pydantic, PyYAML, fsspec, safetensors) is imported here alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from banks import write_bank
from forward_passes import bare, plain, scored
from gpu_kernels import wait
from measuring import alternated, ratio

from cte_dask.inference.memory import peak_memory, reset_peak
from cte_dask.inference.predictor import Predictor
from cte_dask.inference.try_out import try_out
from cte_dask.models import load_bank
from cte_dask.perturb import draws_of
from cte_dask.scoring.experiment import Experiment
from cte_dask.scoring.loaded import READY, load_candidate, predictor
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume

TARGETS = {
    # dims: extent of the target and of a tile
    "cuda": {2: ((32, 1024, 1024), (1, 256, 256)), 3: ((64, 512, 256), (64, 128, 128))},
    "cpu": {2: ((1, 64, 64), (1, 64, 64)), 3: ((16, 16, 16), (16, 16, 16))},
}
PERTURBATIONS = {
    "dropout": ("dropout:0.2",),
    "dropout, noise, gamma, mirror": ("dropout:0.2", "gaussian:0.1", "gamma:0.8", "mirror"),
}
AUTHORS = {"cuda": (2, 1024, 1024), "cpu": (1, 128, 128)}
LEVELS = {"cuda": None, "cpu": 2}
REPEATS = {"cuda": 5, "cpu": 1}


def image(shape: tuple[int, ...]) -> np.ndarray:
    """Smooth random structure, uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 1, *(max(2, n // 8) for n in shape)), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0]
    return (255 * fine).to(torch.uint8).numpy()


@contextmanager
def experiment(
    dims: int, device: str, perturbations: tuple[str, ...], **options: Any
) -> Iterator[Experiment]:
    """Settle one U-Net on a target in memory."""
    shape, tile = TARGETS[device][dims]
    options = {"tile": tile, "metrics": ["nhd", "ei"], "device": device, **options}
    with tempfile.TemporaryDirectory() as folder:
        path = write_bank(Path(folder), 1, dims, image((16, 128, 128)), levels=LEVELS[device])
        volume = open_volume(image(shape), axes="zyx")
        yield resolve(volume, load_bank(str(path)), perturbations=list(perturbations), **options)
    READY.clear()


def end_to_end(
    dims: int, kind: str, device: str, until: float, precision: str = "float32"
) -> dict[str, Any]:
    """From voxels on the host to scores, against the same passes on tensors that are ready."""
    with experiment(dims, device, PERTURBATIONS[kind], precision=precision) as settled:
        forms = {"end to end": scored(settled), "bare passes": bare(settled)}
        forms["plain module"] = plain(settled)
        reset_peak(device)
        timed = alternated(forms, REPEATS[device], wait=lambda: wait(device), until=until)
        host, on_device = peak_memory(device)
        ratios = {f: ratio(timed, f, "end to end", "wall_s") for f in forms if f != "end to end"}
        candidate = settled.candidates[0]
        return {
            "tiles": len(settled.grid),
            "batch": candidate.batch,
            "note": candidate.note,
            "host_bytes": host,
            "device_bytes": on_device,
            "cases": timed,
            "ratios to end to end": ratios,
        }


def against_authors(device: str, until: float) -> dict[str, Any]:
    """One network: the authors' procedure with well-known parts, against ours.

    On a GPU theirs runs in TF32, as PyTorch does unless it is told otherwise; ours in both.
    """
    from authors import FRAME, RATE, TILE, authors, networks

    target = image(AUTHORS[device])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bank = load_bank(str(write_bank(folder, 1, 2, target)))
        made = networks(folder, device)
        forms = {"authors' procedure": authors(made, lambda: target, folder, device)}
        for precision in ("float32", "tf32") if device == "cuda" else ("float32",):
            settled = resolve(
                open_volume(target, axes="zyx"),
                bank,
                tile=(1, TILE, TILE),
                perturbations=[f"dropout:{RATE}"],
                metrics=["nhd", "ei"],
                device=device,
                precision=precision,
            )
            forms[f"ours, {precision}"] = scored(settled)
        timed = alternated(forms, REPEATS[device], wait=lambda: wait(device), until=until)
    READY.clear()
    what = {"shape": target.shape, "tile": TILE, "frame": FRAME}
    ours = [name for name in forms if name != "authors' procedure"]
    ratios = {name: ratio(timed, "authors' procedure", name, "wall_s") for name in ours}
    return {**what, "cases": timed, "ratios of the authors' procedure": ratios}


def passes_of(
    dims: int, precision: str, device: str, until: float, *, runtime: str = "torch"
) -> dict[str, Any]:
    """The bare passes (unperturbed and under dropout) in one precision, by one runtime."""
    with experiment(dims, device, PERTURBATIONS["dropout"]) as settled:
        full = predictor(settled.candidates[0], settled.inference)
        low = replace(settled.inference, precision=precision)
        # in the form that is proven for this precision
        ready = load_candidate(replace(settled.candidates[0], proof=None), low)
        draws = draws_of(settled.perturbations, 1)
        ready.use(runtime)
        began = time.perf_counter()
        with torch.inference_mode():
            try_out(ready, draws)
        wait(device)
        first = time.perf_counter() - began
        forms = {"float32 by torch": bare(settled, full), "this": bare(settled, ready)}
        timed = alternated(forms, REPEATS[device], wait=lambda: wait(device), until=until)
        return {
            "first_s": round(first, 3),
            "form": [str(part) for part in ready.passes.form],
            "largest difference": _difference(ready, full),
            "cases": timed,
            "times as fast": ratio(timed, "float32 by torch", "this", "wall_s"),
        }


def _difference(one: Predictor, other: Predictor) -> float:
    """Of the unperturbed outputs, as a part of the largest."""
    outputs = []
    for ready in (one, other):
        with torch.inference_mode(), ready.arithmetic():
            outputs.append(next(iter(ready.passes.run(ready.example(), [], core=None))).float())
    a, b = outputs
    return float((a - b).abs().max() / b.abs().max())
