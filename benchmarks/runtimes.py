"""Passes compiled by OpenVINO against the same passes folded, fused and run by PyTorch.

    python benchmarks/runtimes.py [--repeats 5]

Of each network the unperturbed pass and one under dropout of a batch, as a run of one thread does
them; the plain module twice, beside. What compiling cost is recorded, and what a long run would
choose. Writes ``benchmarks/results/runtimes.json``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring import alternated, ratio, save
from monai.networks import nets
from torch import Tensor, nn

from cte_dask.inference.graph.feature_path import example_masks, feature_path
from cte_dask.inference.passes import Passes
from cte_dask.inference.runtime_trial import LEAST_SPEEDUP
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet

Build = Callable[[], nn.Module]

NETWORKS: dict[str, tuple[Build, tuple[int, ...], int]] = {
    # a network, a batch, and how much of the frame around the tile is context
    "2D U-Net": (lambda: UNet(dims=2, features=(16, 32, 64, 128)), (2, 1, 320, 320), 32),
    "3D U-Net": (lambda: UNet(dims=3, features=(16, 32, 64)), (1, 1, 32, 96, 96), 16),
    "ResNet-encoder U-Net": (
        lambda: nets.FlexibleUNet(in_channels=3, out_channels=1, backbone="resnet18"),
        (1, 3, 320, 320),
        0,
    ),
    "SwinUNETR": (
        lambda: nets.SwinUNETR(in_channels=1, out_channels=1, feature_size=24, spatial_dims=2),
        (1, 1, 256, 256),
        0,
    ),
    "residual U-Net, PReLU": (
        lambda: nets.UNet(2, 1, 1, (16, 32, 64), (2, 2), num_res_units=2),
        (2, 1, 256, 256),
        0,
    ),
    "DynUNet, instance norms": (
        lambda: nets.DynUNet(2, 1, 1, (3, 3, 3), (1, 2, 2), (2, 2)),
        (1, 1, 256, 256),
        0,
    ),
}


def case(build: Build, shape: tuple[int, ...], context: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    module = build().eval().requires_grad_(False)
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    module.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.rand(shape)
    tile = tuple(slice(context, n - context) for n in shape[2:])
    core = None if context == 0 else tile
    if len(shape) == 5 and core is not None:
        core = (slice(0, shape[2]), *core[1:])
    path = feature_path(Network(forward=module, kind="module"), x, core=core)
    passes = Passes(module, path, tuple(shape[2:]))
    compiled = passes.run_by("openvino")
    masks = [example_masks(x, path.channels, random=True)]

    def run(each: Passes) -> list[Tensor]:
        return list(each.run(x, masks, core=each.core))

    def plain() -> None:
        laid = x.contiguous(memory_format=layout)
        for _ in range(2):
            module(laid)

    with torch.no_grad():
        began = time.perf_counter()
        got = run(compiled)
        seconds = time.perf_counter() - began
        want = run(passes)
        off = max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, want, strict=True)
        )
        forms = {"torch": lambda: run(passes), "openvino": lambda: run(compiled), "plain": plain}
        timed = alternated(forms, repeats)
    speedup = min(timed["torch"]["wall_s"]["values"]) / min(timed["openvino"]["wall_s"]["values"])
    return {
        "layers": list(path.layers),
        "compile_seconds": round(seconds, 2),
        "largest difference": off,
        "chosen": "openvino" if speedup >= LEAST_SPEEDUP else "torch",
        **timed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = {name: case(*network, options.repeats) for name, network in NETWORKS.items()}
    ratios = {f"{n}: torch / OpenVINO": ratio(c, "torch", "openvino") for n, c in cases.items()}
    ratios |= {f"{n}: plain / OpenVINO": ratio(c, "plain", "openvino") for n, c in cases.items()}
    save("runtimes", {"cases": cases, "ratios": ratios})


if __name__ == "__main__":
    main()
