"""Trying the passes of a network as a compiler makes them: whether right, and how fast.

On the processor that is OpenVINO, where it is installed, on a GPU PyTorch's inductor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cte_dask.errors import FOREIGN, reason
from cte_dask.inference.device import rounding, synchronize
from cte_dask.inference.graph.feature_path import Split, example_masks
from cte_dask.inference.graph.openvino_passes import is_installed
from cte_dask.inference.memory import out_of_memory
from cte_dask.inference.passes import alike
from cte_dask.inference.settings import TORCH, Runtime
from cte_dask.inference.try_out import try_out

if TYPE_CHECKING:
    from cte_dask.inference.predictor import Predictor
    from cte_dask.perturb import Draw

__all__ = ["COMPILER", "try_compiled", "withdrawn"]

COMPILER = {"cpu": "openvino", "cuda": "inductor"}
"""The runtime that compiles passes, by device."""
_TITLES = {"openvino": "OpenVINO", "inductor": "inductor"}

LEAST_SPEEDUP = 1.1
ROUNDS = 3


def try_compiled(ready: Predictor, draws: Sequence[Draw], *, batches: float | None) -> Runtime:
    """Compile a model's passes, and leave it with those that it shall use.

    Parameters
    ----------
    ready
        The loaded model, changed in place.
    draws
        The perturbed runs that it supports.
    batches
        How many a worker will run, if it shall be compiled where that saves time; None if
        wherever its predictions stay the same.
    """
    name = COMPILER[ready.device]
    if name == "openvino" and (ready.dtype != torch.float32 or not is_installed()):
        return TORCH
    if not isinstance(ready.passes.path, Split):
        return Runtime(why="its passes are not split")
    try:
        runtime = _tried(name, ready, draws)
    except FOREIGN as error:  # whatever the compiler makes of a foreign network
        if out_of_memory(error):
            raise
        runtime = Runtime(why=f"{_TITLES[name]} cannot compile it: {reason(error)}")
    if batches is not None and not runtime.why:
        runtime = _worth(runtime, ready, draws, batches)
    ready.use(runtime.name)
    return runtime


def withdrawn(runtime: Runtime, ready: Predictor) -> Runtime:
    """Return what runs a model's passes after those compiled differed on a tile of the target.

    Parameters
    ----------
    runtime
        What was chosen.
    ready
        The model, changed in place.
    """
    ready.use("torch")
    why = f"{_TITLES[runtime.name]} differs on a tile of the target"
    return replace(runtime, name="torch", why=why)


def _tried(name: str, ready: Predictor, draws: Sequence[Draw]) -> Runtime:
    """Compile the passes that draws need, and compare one batch with PyTorch's."""
    began = time.perf_counter()
    ready.use(name)
    with torch.inference_mode(), ready.arithmetic():
        try_out(ready, draws)
        synchronize(ready.device)
        seconds = time.perf_counter() - began
        x = ready.example()
        channels = ready.path.channels if ready.path else ()
        masks = [example_masks(x, channels, random=True)] if channels else []
        ways = (ready.passes, ready.passes.run_by("torch"))
        outputs = [list(way.run(x, masks, core=way.core)) for way in ways]
    for got, want in zip(*outputs, strict=True):
        if not alike(got, want, rounding(x)):
            why = f"the predictions of {_TITLES[name]} differ"
            return Runtime(compile_seconds=seconds, why=why)
    return Runtime(name, compile_seconds=seconds)


def _worth(found: Runtime, ready: Predictor, draws: Sequence[Draw], batches: float) -> Runtime:
    """Time both in turns, and take the compiled passes where they save more than they cost."""
    ways = {found.name: ready.passes, "torch": ready.passes.run_by("torch")}
    least = dict.fromkeys(ways, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, passes in ways.items():
                began = time.perf_counter()
                try_out(ready, draws, passes)
                synchronize(ready.device)
                least[name] = min(least[name], time.perf_counter() - began)
    speedup = least["torch"] / least[found.name]
    saved = (least["torch"] - least[found.name]) * batches
    why = (
        "" if speedup >= LEAST_SPEEDUP else f"{_TITLES[found.name]} is {speedup:.2g} times as fast"
    )
    if not why and saved < found.compile_seconds:
        why = f"compiling takes {found.compile_seconds:.1f} s, and would save {saved:.1f} s"
    return Runtime("torch" if why else found.name, speedup, found.compile_seconds, why)
