"""Banks of U-Nets for benchmarks: random weights whose foreground covers about half of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cte_dask.models.unet import UNet

FEATURES = {2: (16, 32, 64, 128), 3: (16, 32, 64)}
HALO = {2: 46, 3: 22}


def network(dims: int, seed: int, image: np.ndarray, features: tuple[int, ...]) -> UNet:
    """A U-Net with batch norms that matter, answering an image with about half foreground."""
    torch.manual_seed(seed)
    made = UNet(dims=dims, features=features).eval().requires_grad_(False)
    for layer in made.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    x = torch.from_numpy((image.astype(np.float32) - 100) / 100)[None, None]
    with torch.inference_mode():
        made.head.weight *= 2 / made(x).std()
        made.head.bias -= made(x).median()
    return made


def write_bank(
    folder: Path, count: int, dims: int, volume: np.ndarray, *, levels: int | None = None
) -> Path:
    """Write a bank; the image that settles the weights is a corner of the volume.

    Networks of fewer levels than the usual ones try a benchmark out.
    """
    features = FEATURES[dims][:levels]
    # a level more doubles what a voxel sees, and two convolutions at full extent add two to a side
    reach = 12 * 2 ** (len(features) - 2) - 2
    image = volume[0, :128, :128] if dims == 2 else volume[:16, :64, :64]
    axes = "yx" if dims == 2 else "zyx"
    halo = ", ".join(f"{a}: {reach}" for a in axes)
    entries = []
    for seed in range(count):
        name = f"unet-{dims}d-{seed}"
        save_file(network(dims, seed, image, features).state_dict(), folder / f"{name}.safetensors")
        entries.append(f"""
  {name}:
    format: state_dict
    source: {name}.safetensors
    architecture: cte_dask.models.unet:UNet
    arguments: {{dims: {dims}, features: {list(features)}}}
    axes: {axes}
    halo: {{{halo}}}
    multiple: {{{", ".join(f"{a}: {2 ** (len(features) - 1)}" for a in axes)}}}
    preprocessing:
    - name: scale_linear
      kwargs: {{gain: 0.01, offset: -1}}
    output: {{channel: 0, activation: sigmoid, threshold: 0.5}}
""")
    path = folder / "bank.yaml"
    path.write_text("schema: cte-bank/1\nmodels:" + "".join(entries))
    return path
