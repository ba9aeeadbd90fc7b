"""Passes that PyTorch's inductor compiles for a GPU: the same lines, compiled for the processor."""

from __future__ import annotations

import shutil

import pytest
import torch

from cte_dask.inference.graph.feature_path import Split, example_masks, feature_path
from cte_dask.inference.graph.inductor_passes import InductorPasses
from cte_dask.inference.passes import Passes
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet


def split_of(x: torch.Tensor, device: str = "cpu", **options) -> Split:
    torch.manual_seed(0)
    module = UNet(dims=2, features=(4, 8)).eval().requires_grad_(False).to(device)
    path = feature_path(Network(forward=module, kind="module"), x, **options)
    assert isinstance(path, Split)
    return path


def compared(path: Split, x: torch.Tensor) -> None:
    """The unperturbed pass and one under dropout, cut to the core, as PyTorch runs them."""
    masks = [example_masks(x, path.channels, random=True)]
    passes = Passes(torch.nn.Identity(), path, tuple(x.shape[2:]))
    compiled = passes.run_by("inductor")
    assert isinstance(compiled.compiled, InductorPasses)
    with torch.inference_mode():
        for batch in (x, 0.3 * x.flip(-1) + 0.5):
            got, want = (list(p.run(batch, masks, core=passes.core)) for p in (compiled, passes))
            for one, other in zip(got, want, strict=True):
                limit = 2e-5 * float(other.abs().max())
                torch.testing.assert_close(one, other, rtol=0, atol=limit)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this machine")
def test_compiled_passes_are_those_of_torch(monkeypatch):
    # graphs as a GPU has them: nothing of them is oneDNN's
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    path = split_of(x, core=(slice(16, 32),) * 2)
    assert path.inner is not None
    compared(path, x)


@pytest.mark.gpu
def test_gpu_passes_compiled_are_those_of_torch():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(1)).cuda()
    with torch.no_grad():
        compared(split_of(x, "cuda", core=(slice(16, 32),) * 2), x)
