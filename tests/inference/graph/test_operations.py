"""Operations are counted as PyTorch's own counter counts them."""

from __future__ import annotations

import pytest
import torch
from attention import Attention
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.inference.graph.trace import flops_of
from cte_dask.models.unet import UNet

NETWORKS = {
    "unet": (lambda: UNet(dims=2, features=(4, 6, 8)), (2, 1, 32, 32)),
    "unet-3d": (lambda: UNet(dims=3, features=(2, 4)), (1, 1, 8, 16, 16)),
    "attention": (Attention, (2, 5, 8)),
    "linear": (lambda: nn.Linear(3, 4), (5, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_count_is_that_of_pytorchs_counter(name):
    make, shape = NETWORKS[name]
    module, x = make().eval(), torch.rand(shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    assert flops_of(lambda: module(x)) == counter.get_total_flops() > 0


def test_what_has_no_formula_counts_nothing():
    assert flops_of(lambda: torch.rand(3) + 1) == 0


def test_what_is_run_may_fail():
    with pytest.raises(RuntimeError):
        flops_of(lambda: nn.Linear(3, 4)(torch.rand(5, 2)))
