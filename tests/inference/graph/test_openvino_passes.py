"""Compiled passes give what PyTorch's give, for every kind of network that is split."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from monai.networks import nets
from torch import Tensor, nn

from cte_dask.inference.graph import openvino_passes
from cte_dask.inference.graph.feature_path import Split, example_masks, feature_path
from cte_dask.inference.graph.openvino_graph import convertible
from cte_dask.inference.graph.openvino_passes import OpenVinoPasses
from cte_dask.inference.graph.trace import traced
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet


def split_of(module: nn.Module, x: Tensor, **options: Any) -> Split:
    path = feature_path(
        Network(forward=module.eval().requires_grad_(False), kind="module"), x, **options
    )
    assert isinstance(path, Split)
    return path


def by_torch(path: Split, x: Tensor, masks: list[list[Tensor]], *, cropped: bool) -> list[Tensor]:
    state = path.encode(x, cropped=cropped)
    ones = example_masks(x, path.channels, random=False)
    return [path.decode(state, layers, cropped=cropped) for layers in (ones, *masks)]


def assert_alike(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * float(other.abs().max()))


NETWORKS = {
    "U-Net 2D": (lambda: UNet(dims=2, features=(4, 6, 8)), (2, 1, 32, 32)),
    "U-Net 3D": (lambda: UNet(dims=3, features=(4, 6, 8)), (1, 1, 16, 16, 16)),
    # pads what was halved to an odd extent, by its outermost voxels
    "replicated borders": (
        lambda: nets.BasicUNet(
            spatial_dims=2, in_channels=1, out_channels=1, features=(4, 4, 8, 8, 8, 4)
        ),
        (2, 1, 40, 40),
    ),
    "PReLU": (
        lambda: nets.UNet(2, 1, 1, (4, 8, 8), (2, 2), num_res_units=1),
        (2, 1, 32, 32),
    ),
    # its attention masks are filled in place
    "shifted windows": (
        lambda: nets.SwinUNETR(in_channels=1, out_channels=1, feature_size=12, spatial_dims=2),
        (1, 1, 64, 64),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_passes_are_those_of_torch(name):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    x = torch.rand(shape)
    path = split_of(build(), x)
    masks = [example_masks(x, path.channels, random=True)]
    masks.append([0.5 * m for m in masks[0]])
    with torch.inference_mode():
        compiled = OpenVinoPasses(path)
        for number in range(3):
            got = compiled.run(x, masks[:number], cropped=False)
            assert_alike(got, by_torch(path, x, masks[:number], cropped=False))
        # what is constant in the graph is not what the first batch was
        other = 0.3 * x.flip(-1) + 0.5
        assert_alike(
            compiled.run(other, masks[:1], cropped=False),
            by_torch(path, other, masks[:1], cropped=False),
        )


def test_compiled_passes_are_cut_to_the_core_alike():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 128, 128)
    path = split_of(UNet(dims=2, features=(4, 6, 8)), x, core=(slice(40, 88),) * 2)
    assert path.core is not None
    masks = [example_masks(x, path.channels, random=True)]
    with torch.inference_mode():
        got = OpenVinoPasses(path).run(x, masks, cropped=True)
        assert_alike(got, by_torch(path, x, masks, cropped=True))
    assert got[0].shape < x.shape


def test_results_outlive_the_next_batch():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 32, 32)
    compiled = OpenVinoPasses(split_of(UNet(dims=2, features=(4, 6)), x))
    with torch.inference_mode():
        (first,) = compiled.run(x, [], cropped=False)
        kept = first.clone()
        compiled.run(1 - x, [], cropped=False)
    assert torch.equal(first, kept)


def test_padding_that_repeats_the_border_is_written_with_what_there_is():
    def padded(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (2, 0, 1, 3, 0, 1), mode="replicate")

    x = torch.rand(1, 2, 3, 4, 5)
    graph = convertible(traced(padded, x))
    assert not any("replication" in str(n.target) for n in graph.graph.nodes)
    assert torch.equal(graph(x), padded(x))


def test_without_openvino_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not openvino_passes.is_installed()
    with pytest.raises(ValueError, match=r"pip install 'cte-dask\[openvino\]'"):
        openvino_passes.check_installed()


def test_compiling_tells_nobody(tmp_path):
    """OpenVINO gives its users a number, kept in their home, and sends it home."""
    lines = """
import torch
from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.inference.graph.openvino_passes import OpenVinoPasses
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet
x = torch.rand(1, 1, 32, 32)
with torch.no_grad():
    network = Network(forward=UNet(dims=2, features=(4, 6)).eval(), kind="module")
    print(len(OpenVinoPasses(feature_path(network, x)).run(x, [], cropped=False)))
"""
    told = subprocess.run(
        [sys.executable, "-c", lines],
        env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "1\n"
    assert not list(tmp_path.iterdir())
