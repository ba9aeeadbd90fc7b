"""A small trained-looking U-Net, and what it needs to be saved in every format."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet

ARGUMENTS = {"dims": 2, "features": [4, 8]}
UNET = "cte_dask.models.unet:UNet"


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(1)
    network = UNet(dims=2, features=(4, 8)).eval()
    with torch.no_grad():  # statistics as of a trained network: signals neither die nor explode
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.sub_(0.05)
            if name.endswith("running_var"):
                buffer.mul_(0.1)
        assert network(torch.rand(1, 1, 32, 32)).std() > 0.1
    return network


def responsive(network: torch.nn.Module, head: torch.nn.Module) -> torch.nn.Module:
    """Return a network whose foreground covers half of a `blobs` image, voxels as they are."""
    from conftest import blobs

    x = torch.from_numpy(blobs((1, 64, 64), seed=1).astype("float32"))[None]
    logits: list[torch.Tensor] = []
    with torch.no_grad(), head.register_forward_hook(lambda _m, _x, y: logits.append(y)):
        network.eval()(x)
        head.bias -= logits[0].median()
        head.bias *= 2 / logits[0].std()
        head.weight *= 2 / logits[0].std()
    return network


def responsive_unet() -> UNet:
    """A factory of format ``python``."""
    torch.manual_seed(10)
    network = UNet(dims=2, features=(4, 8))
    responsive(network, network.head)
    return network


@pytest.fixture
def weights(unet: UNet, tmp_path: Path) -> Path:
    path = tmp_path / "unet.safetensors"
    save_file(unet.state_dict(), path)
    return path


@pytest.fixture
def spec_of() -> Callable[..., ModelSpec]:
    """Return a maker of specs of the small U-Net; keys given replace the defaults."""

    def make(source: Path | str, **keys: object) -> ModelSpec:
        entry: dict[str, object] = {"name": "small", "format": "state_dict", "source": str(source)}
        if keys.get("format", "state_dict") == "state_dict":
            entry |= {"architecture": UNET, "arguments": ARGUMENTS}
        return ModelSpec.model_validate(entry | keys)

    return make


@pytest.fixture
def save_as(tmp_path: Path) -> Callable[[torch.nn.Module, str], Path]:
    """Return a function that saves a network in one of the ways people do."""

    def save(network: torch.nn.Module, way: str) -> Path:
        path = tmp_path / f"{way}.bin"
        state = network.state_dict()
        match way:
            case "safetensors":
                save_file(state, path)
            case "pt":
                torch.save(state, path)
            case "legacy pt":
                torch.save(state, path, _use_new_zipfile_serialization=False)
            case "nested":
                torch.save({"epoch": 3, "model_state_dict": state}, path)
            case "data parallel":
                torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
            case "torchscript":
                _save_torchscript(network, path)
            case "torch_export":
                path = path.with_suffix(".pt2")
                torch.export.save(exported(network), path)
        return path

    return save


def exported(
    network: torch.nn.Module, *, fixed: bool = False, extent: int = 32
) -> torch.export.ExportedProgram:
    size = torch.export.Dim.DYNAMIC
    shapes = None if fixed else ({0: size, 2: size, 3: size},)
    return torch.export.export(network, (torch.rand(2, 1, extent, extent),), dynamic_shapes=shapes)


def _save_torchscript(network: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making one is deprecated, and so noisy
        torch.jit.save(torch.jit.trace(network, torch.rand(1, 1, 32, 32)), path)


@pytest.fixture
def export() -> Callable[..., torch.export.ExportedProgram]:
    return exported
