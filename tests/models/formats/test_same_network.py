"""One network saved in every format: the same predictions, and the same NHD under the same mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bioimageio_packages as made
import numpy as np
import pytest
import torch
from torch import nn

from cte_dask.consistency.binary import binary_agreement, nhd
from cte_dask.inference.graph.bottleneck import BlackBoxError
from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.models.loading import load_network
from cte_dask.models.network import Network
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet
from cte_dask.perturb.dropout import channel_mask

pytest.importorskip("bioimageio.spec")
pytest.importorskip("onnxruntime")

Save = Callable[[nn.Module, str], Path]

GREY = ("state_dict", "torchscript", "torch_export", "zoo state_dict", "zoo torchscript")
BLACK = ("onnx", "zoo onnx")
ZOO = {"state_dict": "pytorch_state_dict", "torchscript": "torchscript", "onnx": "onnx"}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(3, 1, 48, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def load(unet: UNet, save_as: Save, tmp_path: Path) -> Callable[[str], Network]:
    def spec(way: str) -> ModelSpec:
        entry: dict[str, object] = {"name": "same", "format": way}
        if way.startswith("zoo "):
            kind = ZOO[way.removeprefix("zoo ")]
            weights = {kind: made.weights_of(kind, tmp_path, unet)}
            made.write_rdf(tmp_path, made.description(tmp_path, weights=weights))
            return ModelSpec.model_validate(
                entry | {"format": "bioimageio", "source": str(tmp_path)}
            )
        if way == "onnx":
            made.weights_of("onnx", tmp_path, unet)
            return ModelSpec.model_validate(entry | {"source": str(tmp_path / "model.onnx")})
        if way == "state_dict":
            entry |= {"architecture": "cte_dask.models.unet:UNet"}
            entry |= {"arguments": {"dims": 2, "features": [4, 8]}}
        path = save_as(unet, "pt" if way == "state_dict" else way)
        return ModelSpec.model_validate(entry | {"source": str(path)})

    return lambda way: load_network(spec(way))


@pytest.mark.parametrize("way", GREY + BLACK)
def test_predictions_are_the_same_in_every_format(
    way: str,
    unet: UNet,
    x: torch.Tensor,
    load: Callable[[str], Network],
) -> None:
    with torch.no_grad():
        want, got = unet(x), load(way).forward(x)
    worst = float((got - want).abs().max())
    # One framework, one order of operations; ONNX Runtime adds up in its own.
    assert worst <= (1e-5 if way in BLACK else 1e-6), f"{way}: {worst:g}"
    assert want.std() > 0.1


@pytest.mark.parametrize("way", GREY)
def test_the_same_mask_gives_the_same_inconsistency(
    way: str, unet: UNet, x: torch.Tensor, load: Callable[[str], Network]
) -> None:
    want, got = _nhd(Network(forward=unet, kind="module"), x), _nhd(load(way), x)
    assert got == pytest.approx(want, abs=2 / x.numel())  # one voxel at the threshold
    assert 0 < want < 1


@pytest.mark.parametrize("way", BLACK)
def test_a_black_box_says_so(way: str, x: torch.Tensor, load: Callable[[str], Network]) -> None:
    with pytest.raises(BlackBoxError, match="black box"):
        feature_path(load(way), x)


def _nhd(network: Network, x: torch.Tensor) -> float:
    path = feature_path(network, x)
    (channels,) = path.channels
    mask = channel_mask(channels, 0.3, mode="fixed", key=(3, 4))
    masks = torch.from_numpy(mask)[None, :, None, None].expand(len(x), -1, 1, 1)
    with torch.no_grad():
        state = path.encode(x)
        reference, perturbed = (
            path.decode(state, [m]).sigmoid()[:, 0].numpy() for m in (torch.ones_like(masks), masks)
        )
    counts = binary_agreement(reference, perturbed, threshold=float(np.median(reference)))
    return float(nhd(counts.n_union, counts.n_disagree))
