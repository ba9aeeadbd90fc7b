"""What no input tells is computed once, unless that would not be the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cte_dask.inference.graph import trace
from cte_dask.inference.graph.constants import compute_constants


class Windows(nn.Module):
    """Numbers the windows of its input anew in every pass, as Swin transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.zeros(1, 1, 8, 8)
        for i, rows in enumerate((slice(0, 4), slice(4, 8))):
            numbers[..., rows, :] = i
        same = numbers.flatten(2) - numbers.flatten(2).transpose(1, 2)
        return x.flatten(2) @ same.masked_fill(same != 0, -100.0)


class Accumulating(nn.Module):
    """Writes what it computes from its input into zeros."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1, 1, 8, 8)
        for i in range(len(x)):
            total += x[i]
        return total


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.view(1).add_(1)
        return x * self.calls


class Drawing(nn.Module):
    """Adds noise of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(8, 8)


def graph_of(module: nn.Module, x: Tensor):
    with torch.no_grad():
        return trace.traced(module, x)


def targets(graph) -> list[str]:
    return [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]


def test_what_no_input_tells_is_computed_once():
    module, x = Windows(), torch.rand(2, 3, 8, 8)
    graph = graph_of(module, x)
    want = graph(x)
    assert len(targets(graph)) > 10
    compute_constants(graph)
    graph.recompile()
    assert len(targets(graph)) <= 5
    for _ in range(2):
        assert torch.equal(graph(x), want)


@pytest.mark.parametrize("make", [Accumulating, Counting])
def test_a_network_that_writes_into_its_constants_is_left_alone(make):
    x = torch.rand(2, 1, 8, 8)
    module, other = make(), make()
    graph = graph_of(module, x)
    other(x)  # as often as the network that was traced
    before = targets(graph)
    compute_constants(graph)
    graph.recompile()
    assert targets(graph) == before
    for _ in range(3):
        assert torch.equal(graph(x), other(x))


def test_noise_is_drawn_in_every_pass():
    graph = graph_of(Drawing(), x := torch.rand(1, 1, 8, 8))
    compute_constants(graph)
    graph.recompile()
    assert not torch.equal(graph(x), graph(x))
