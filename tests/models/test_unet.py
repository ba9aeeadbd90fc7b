"""The shipped U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cte_dask.models.unet import UNet

EXTENTS = {2: (32, 48), 3: (8, 16, 24)}


def network(**arguments: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(**({"features": (4, 6, 8)} | arguments)).eval()


def image(dims: int, *, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand((2, channels, *EXTENTS[dims]), generator=generator)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "instance", None])
@pytest.mark.parametrize("upsample", ["transpose", "nearest"])
def test_gives_a_logit_for_every_voxel_and_channel(
    dims: int, norm: str | None, upsample: str
) -> None:
    unet = network(dims=dims, in_channels=2, out_channels=3, norm=norm, upsample=upsample)
    with torch.inference_mode():
        logits = unet(image(dims, channels=2))
    assert logits.shape == (2, 3, *EXTENTS[dims])
    assert torch.isfinite(logits).all()


def test_the_head_is_not_squeezed_into_probabilities() -> None:
    unet = network()
    nn.init.zeros_(unet.head.weight)
    nn.init.constant_(unet.head.bias, -7.0)
    assert torch.equal(unet(image(2)), torch.full_like(image(2), -7.0))


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_multiple_is_the_whole_downsampling(levels: int) -> None:
    unet = network(features=(4,) * levels)
    assert unet.multiple == 2 ** (levels - 1)
    unet(torch.zeros(1, 1, unet.multiple, 2 * unet.multiple))
    with pytest.raises(ValueError, match=f"extent {unet.multiple + 1} .* multiple of"):
        unet(torch.zeros(1, 1, 2 * unet.multiple, unet.multiple + 1))


def test_an_input_of_other_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="input of 5 axes: a 2D U-Net takes 4"):
        network(dims=2)(image(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 1}, "dims 1"),
        ({"features": (4,)}, "two levels"),
        ({"features": (4, 0)}, "at least one channel"),
        ({"in_channels": 0}, "in_channels 0"),
        ({"out_channels": 0}, "out_channels 0"),
        ({"norm": "layer"}, "norm 'layer'"),
        ({"upsample": "linear"}, "upsample 'linear'"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


@pytest.mark.parametrize("upsample", ["transpose", "nearest"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_last_output_of_smallest_extent_is_the_deepest_encoder(
    dims: int, upsample: str
) -> None:
    unet = network(dims=dims, dropout=0.2, upsample=upsample)
    extents: list[tuple[str, int]] = []
    for name, module in unet.named_modules():
        module.register_forward_hook(
            lambda _module, _input, output, name=name: extents.append((name, output.shape[-1]))
        )
    unet(image(dims))
    smallest = min(extent for _, extent in extents)
    assert [name for name, extent in extents if extent == smallest][-1] == "encoders.2"
    assert extents[-2][0] == "head"


def test_evaluation_repeats_and_training_drops_whole_channels() -> None:
    unet = network(dropout=0.5)
    x = image(2)
    assert torch.equal(unet(x), unet(x))
    unet.train()
    features = unet.encoders[0](x.repeat(16, 1, 1, 1))  # 128 channels: some are dropped
    dropped = (features == 0).flatten(2).all(dim=2)
    assert dropped.any()
    assert not torch.equal(unet(x), unet(x))


def test_weights_do_not_depend_on_dropout() -> None:
    trained, deployed = network(dropout=0.3), network()
    deployed.load_state_dict(trained.state_dict())
    x = image(2)
    assert torch.equal(trained(x), deployed(x))


def test_kept_outputs_stay_as_they_were() -> None:
    unet = network()
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in unet.modules():
        module.register_forward_hook(
            lambda _module, _input, output: outputs.append((output, output.clone()))
        )
    unet(image(2))
    assert all(torch.equal(output, copy) for output, copy in outputs)


def convolution_flops(pairs: Sequence[tuple[int, int]], voxels: int, kernel: int) -> int:
    return sum(2 * voxels * kernel * narrow * wide for narrow, wide in pairs)


@pytest.mark.parametrize("dims", [2, 3])
def test_flops_are_those_of_the_drawing(dims: int) -> None:
    x = image(dims)[:1]
    fine, coarse = x.numel(), x.numel() // 2**dims
    with FlopCounterMode(display=False) as counter:
        network(dims=dims, features=(4, 8))(x)
    expected = (
        convolution_flops([(1, 4), (4, 4), (8, 4), (4, 4)], fine, 3**dims)
        + convolution_flops([(4, 8), (8, 8)], coarse, 3**dims)
        + convolution_flops([(8, 4)], coarse, 2**dims)
        + convolution_flops([(4, 1)], fine, 1)
    )
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_exports_to_a_graph_that_gives_the_same(dims: int) -> None:
    unet, x = network(dims=dims), image(dims)
    auto = dict.fromkeys(range(2, x.dim()), torch.export.Dim.AUTO)
    program = torch.export.export(unet, (x,), dynamic_shapes=(auto,))
    larger = torch.cat((x, x), dim=-1)
    assert torch.equal(program.module()(larger), unet(larger))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("dims", [2, 3])
def test_scripts_and_traces_to_a_graph_that_gives_the_same(dims: int) -> None:
    unet, x = network(dims=dims), image(dims)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(unet)(x), unet(x))
        assert torch.equal(torch.jit.trace(unet, x)(x), unet(x))


def test_learns_to_mark_what_is_bright() -> None:
    unet, x = network(features=(4, 8)), image(2)
    truth = (x > 0.5).float()
    optimizer = torch.optim.Adam(unet.parameters(), lr=0.02)
    unet.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(unet(x), truth)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2
