"""A network from a factory that talks on standard output, as print and as compiled code do."""

from __future__ import annotations

import os
import warnings

import torch

from cte_dask.models.unet import UNet


class Talking(UNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            say("predicting")
        return super().forward(x)


def network() -> Talking:
    say("loading")
    torch.manual_seed(0)
    return Talking(dims=2, features=(4, 8)).eval()


def say(word: str) -> None:
    print(f"talking: {word}", flush=True)
    os.write(1, f"talking below Python: {word}\n".encode())
    warnings.warn(f"talking to developers: {word}", DeprecationWarning, stacklevel=1)
    warnings.warn(f"talking to developers: {word}", UserWarning, stacklevel=1)
