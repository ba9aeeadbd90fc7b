"""A cheap network that notes which tiles it was asked for: what counts computations honestly.

A tile is known by the voxels that the network sees, so the count needs no word of the code under
test. The networks here are Python factories of a bank with ``trust: true``.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn


class Noting(nn.Module):
    """Smooths its input; sleeps, and writes a line a sample: nanoseconds and a digest."""

    def __init__(self, log: str, seconds: float, width: int) -> None:
        super().__init__()
        self.log, self.seconds = log, seconds
        self.smooth = nn.AvgPool2d(width, stride=1, padding=width // 2)

    def forward(self, x: Tensor) -> Tensor:
        now = time.time_ns()
        digests = dict.fromkeys(hashlib.sha256(s.numpy().tobytes()).hexdigest() for s in x)
        lines = "".join(f"{now} {d}\n" for d in digests)  # a batch is filled with its last sample
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, lines.encode())  # one write, whole or not at all
        os.close(file)
        time.sleep(self.seconds)
        return 8 * (self.smooth(x) - 0.5)


def factory(log: str, seconds: float = 0.05, width: int = 5) -> nn.Module:
    return Noting(log, seconds, width)


class Poison(nn.Module):
    """Kills its process when a voxel of its input is as bright as nothing in a target."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal

    def forward(self, x: Tensor) -> Tensor:
        if (x > 50).any():
            os.kill(os.getpid(), self.signal)
            time.sleep(60)
        return 8 * (x - 0.5)


def poison(signal: int = 9) -> nn.Module:
    return Poison(signal)


class Raising(nn.Module):
    """Raises when a voxel of its input is as dark as nothing in a target."""

    def forward(self, x: Tensor) -> Tensor:
        if (x < -50).any():
            raise RuntimeError("too dark for me")
        return 8 * (x - 0.5)


def raising() -> nn.Module:
    return Raising()


class Hungry(nn.Module):
    """Runs out of memory as torch does, for batches above a size that a test sets.

    One that looks at its input, as `opaque` makes it, cannot be traced: its own code runs.
    """

    most = 1
    asked: ClassVar[list[int]] = []

    def __init__(self, opaque: bool) -> None:
        super().__init__()
        self.opaque = opaque
        torch.manual_seed(0)
        self.down = nn.Conv2d(1, 4, 3, padding=1, stride=2)
        self.up = nn.ConvTranspose2d(4, 1, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        type(self).asked.append(len(x))
        if len(x) > type(self).most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried a batch of {len(x)}.")
        if self.opaque and x.isnan().any():
            raise ValueError("an input with NaN")
        out: Tensor = self.up(torch.relu(self.down(x)))
        return out


def hungry(opaque: bool) -> nn.Module:
    return Hungry(opaque)


def entry(name: str, function: str, **arguments: object) -> str:
    """Return the entry of one of these networks in a bank."""
    text = ", ".join(f"{k}: {v!r}" for k, v in arguments.items())
    return f"""
  {name}:
    format: python
    source: noting:{function}
    trust: true
    arguments: {{{text}}}
    axes: yx
    halo: {{y: 0, x: 0}}
    multiple: {{y: 1, x: 1}}
    preprocessing:
    - name: scale_range
      kwargs: {{min_percentile: 1, max_percentile: 99.8}}
      scope: volume
    output: {{channel: 0, activation: sigmoid, threshold: 0.5}}
"""


def write_bank(path: Path, *entries: str) -> Path:
    path.write_text("schema: cte-bank/1\nmodels:" + "".join(entries))
    return path


def noted(log: Path) -> dict[str, list[int]]:
    """Return when (nanoseconds) each tile, by its digest, was asked for."""
    times: dict[str, list[int]] = defaultdict(list)
    for line in log.read_text().splitlines():
        moment, digest = line.split()
        times[digest].append(int(moment))
    return times
