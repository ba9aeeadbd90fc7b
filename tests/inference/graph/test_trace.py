"""A trace holds what ran: the operations, in their order, with the function's own weights."""

from __future__ import annotations

import subprocess
import sys
import weakref

import pytest
import torch
from attention import Attention
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from cte_dask.inference.graph.trace import traced
from cte_dask.models.unet import UNet


class InPlace(nn.Module):
    """Writes into what it made, whole and in part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu_()
        y[:, :2] += 1
        y.mul_(0.5)
        return y


class Parts(nn.Module):
    """Takes results apart and puts them together; returns several."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b = x.chunk(2, dim=-1)
        highest, where = (a * self.scale).max(dim=1)
        ramp = torch.arange(b.shape[-1], device=x.device, dtype=x.dtype)
        grown = F.interpolate(torch.cat([a, b + ramp], 1), scale_factor=2, mode="bilinear")
        return {"highest": highest, "where": where, "grown": grown}


NETWORKS = {
    "unet": lambda: UNet(dims=2, features=(4, 6, 8)),
    "unet-3d": lambda: UNet(dims=3, features=(2, 4)),
    "in-place": InPlace,
    "parts": Parts,
    "attention": Attention,
}


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    module = NETWORKS[name]().eval().requires_grad_(False)
    shape = {"unet-3d": (1, 1, 8, 16, 16), "attention": (2, 5, 8)}.get(name, (2, 1, 16, 16))
    return module, torch.rand(shape), torch.rand(shape)


def assert_same(got: object, want: object) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_trace_gives_what_the_function_gives_for_other_inputs(name):
    module, x, other = made(name)
    with torch.no_grad():
        trace = traced(module, x)
        assert_same(trace(x), module(x))
        assert_same(trace(other), module(other))


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"parts"}))
def test_a_trace_holds_the_operations_that_pytorchs_own_tracer_finds(name):
    module, x, _ = made(name)

    def operations(graph) -> list[str]:
        graph.eliminate_dead_code()
        return [str(n.target) for n in graph.nodes if n.op == "call_function"]

    with torch.no_grad():
        assert operations(traced(module, x).graph) == operations(make_fx(module)(x).graph)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_traced_too():
    module, x, other = made("unet")
    script = torch.jit.trace(module, x)
    with torch.no_grad():
        assert_same(traced(script, x)(other), module(other))


def test_constants_are_the_functions_own_weights():
    module, x, other = made("unet")
    with torch.no_grad():
        trace = traced(module, x)
        held = {id(t) for t in trace.state_dict(keep_vars=True).values()}
        assert held == {
            id(t)
            for name, t in module.state_dict(keep_vars=True).items()
            if "num_batches" not in name
        }
        next(module.parameters()).mul_(2)
        assert_same(trace(other), module(other))


def test_results_have_shapes_and_dtypes_but_no_memory():
    module, x, _ = made("unet")
    with torch.no_grad():
        trace = traced(module, x)
    held = [n.meta["val"] for n in trace.graph.nodes if "val" in n.meta]
    assert {v.device.type for v in held} == {"meta"}
    result = next(n for n in trace.graph.nodes if n.op == "output").args[0]
    assert result.meta["val"].shape == module(x).shape


def test_what_is_traced_is_freed_as_it_goes():
    seen: list[weakref.ref[Tensor]] = []

    def function(x: Tensor) -> Tensor:
        y = x + 1
        seen.append(weakref.ref(y))
        z = y * 2
        del y
        seen.append(weakref.ref(z))
        alive = seen[0]()
        assert alive is None, "an intermediate result outlived its use"
        return z

    traced(function, torch.rand(3))
    assert len(seen) == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.sum().item(),
        lambda x: x + 1 if x.sum() > 0 else x,
        lambda x: x * float(torch.equal(x, x)),
    ],
)
def test_what_looks_at_values_is_refused(function):
    with pytest.raises(ValueError, match="looks at values"):
        traced(function, torch.rand(3))


def test_what_a_function_raises_comes_through():
    def function(x: Tensor) -> Tensor:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        traced(function, torch.rand(3))


def test_neither_tracing_nor_counting_loads_pytorchs_compiler():
    code = """
import sys, torch
from cte_dask.models.unet import UNet
from cte_dask.inference.graph.trace import flops_of
from cte_dask.inference.graph.trace import traced
network, x = UNet(dims=2, features=(4, 6)).eval(), torch.rand(1, 1, 16, 16)
with torch.no_grad():
    trace = traced(network, x)
assert flops_of(lambda: trace(x)) > 0
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
