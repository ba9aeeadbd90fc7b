"""Shared passes against the plain ones: what a network gives with hooks at its bottleneck."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cte_dask.inference.graph.bottleneck import hooked
from cte_dask.inference.graph.feature_path import FeaturePath, example_masks


def assert_as_plain(
    path: FeaturePath, module: nn.Module, x: Tensor, *, rtol: float = 1e-5, atol: float = 1e-5
) -> None:
    """Perturb a network at its bottleneck twice, so that what is kept is not spoilt."""
    masks = example_masks(x, path.channels, random=True)
    with torch.inference_mode():
        with hooked(module, path.layers, lambda i, y: y * masks[i]):
            want = module(x)
        state = path.encode(x)
        for _ in range(2):
            torch.testing.assert_close(path.decode(state, masks), want, rtol=rtol, atol=atol)
