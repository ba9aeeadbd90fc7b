"""Convolutions of 3 x 3 as matrix products in Winograd's space, against oneDNN's.

    python benchmarks/convolutions.py [--repeats 7]

Each layer with its bias and ReLU, of one sample, in one thread. The rule by which a network's
layers are run one way or the other (`cte_dask.inference.graph.winograd.is_quicker`) is told beside,
and how far each lies from the same in float64. Writes ``benchmarks/results/convolutions.json``.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring import alternated, ratio, save
from torch import Tensor
from torch.nn import functional

from cte_dask.inference.graph import winograd
from cte_dask.inference.graph.private_torch import ONEDNN

LAYERS = [
    # channels in and out, and what they see
    (16, 16, (320, 320)),
    (32, 16, (320, 320)),
    (32, 32, (160, 160)),
    (64, 32, (160, 160)),
    (64, 64, (80, 80)),
    (64, 64, (256, 256)),
    (128, 128, (8, 8)),
    (128, 128, (40, 40)),
    (256, 256, (20, 20)),
    (16, 16, (32, 96, 96)),
    (32, 32, (16, 48, 48)),
    (64, 64, (8, 24, 24)),
]
CALLS = 2e8
"""Multiply-adds that are timed at a time."""


def case(into: int, out: int, size: tuple[int, ...], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    dims = len(size)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    x = torch.rand(1, into, *size).contiguous(memory_format=layout)
    weight = torch.randn(out, into, *[3] * dims) / (into * 3**dims) ** 0.5
    weight, bias = weight.contiguous(memory_format=layout), torch.randn(out)
    ones = [1] * dims
    layer = (x, weight, bias, ones, ones, ones, 1, "relu", [], "")
    convolved = functional.conv2d if dims == 2 else functional.conv3d
    exact = convolved(x.double(), weight.double(), bias.double(), padding=1).relu()
    calls = max(1, round(CALLS / (weight.numel() * x[0, 0].numel())))

    def ours() -> Tensor:
        return winograd._convolved(x, weight, bias, ones, slope=0.0)

    def theirs() -> Tensor:
        return ONEDNN(*layer)  # type: ignore[no-any-return]

    def off(got: Tensor) -> float:
        return float((got - exact).abs().max() / exact.max())

    forms = {"oneDNN": theirs, "ours": ours}
    timed = alternated(
        {name: lambda run=run: [run() for _ in range(calls)] for name, run in forms.items()},
        repeats,
    )
    return {
        "calls": calls,
        "chosen": winograd.is_quicker(x.shape, weight.shape, ones),
        "off": {name: off(run()) for name, run in forms.items()},
        **timed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        cases = {
            f"{into} → {out} channels at {' x '.join(map(str, size))}": case(
                into, out, size, options.repeats
            )
            for into, out, size in LAYERS
        }
    ratios = {
        f"{name}: oneDNN / {'ours' if c['chosen'] else 'ours, which is not taken'}": ratio(
            c, "oneDNN", "ours"
        )
        for name, c in cases.items()
    }
    save("convolutions", {"cases": cases, "ratios": ratios})


if __name__ == "__main__":
    main()
