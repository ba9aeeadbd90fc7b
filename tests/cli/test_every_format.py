"""Every command on a bank that holds a model of every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bioimageio_packages as made
import numpy as np
import pytest
import small_networks
import torch
import yaml
import zarr
from small_networks import responsive, responsive_unet
from troubled import cte

from cte_dask.models.format_registry import FORMATS
from cte_dask.models.formats.pytorch3dunet.config import Configuration
from cte_dask.models.formats.pytorch3dunet.loader import _network
from cte_dask.volume import write_ome_zarr

pytest.importorskip("bioimageio.spec")
pytest.importorskip("dynamic_network_architectures")
pytest.importorskip("monai")
pytest.importorskip("onnxruntime")

HALO = {"axes": "yx", "halo": {"y": 8, "x": 8}}
SMALL = ["--cluster", "none", "--quiet"]
SCORED = [*SMALL, "--tile", "1,32,32", "--roi", "0:2,0:64,0:64"]


def package(folder: Path, kind: str) -> str:
    folder.mkdir()
    weights = {kind: made.weights_of(kind, folder, responsive_unet())}
    made.write_rdf(folder, made.description(folder, weights=weights))
    return str(folder)


def plant(folder: Path) -> str:
    folder.mkdir()
    model = {
        "name": "UNet2D", "in_channels": 1, "out_channels": 1, "final_sigmoid": True,
        "f_maps": [4, 8], "num_groups": 2,
    }  # fmt: skip
    (folder / "config_train.yml").write_text(yaml.safe_dump({"model": model}))
    torch.manual_seed(0)
    unet = _network(Configuration.model_validate(model))
    state = responsive(unet, unet.final_conv).state_dict()
    torch.save({"model_state_dict": state}, folder / "best_checkpoint.pytorch")
    return str(folder)


def bundle(folder: Path) -> str:
    """A MONAI bundle of a U-Net that sees planes as they are stored."""
    from monai.networks.nets import UNet

    network = {
        "_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 1,
        "channels": [4, 8], "strides": [2], "norm": "batch",
    }  # fmt: skip
    document = {
        "network_def": network,
        "preprocessing": [{"_target_": "LoadImage", "reader": "NumpyReader"}],
        "postprocessing": [{"_target_": "Activations", "sigmoid": True}],
    }
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    unet = UNet(**{k: v for k, v in network.items() if k != "_target_"})
    head = [m for m in unet.modules() if hasattr(m, "bias") and m.bias is not None][-1]
    state = responsive(unet, head).state_dict()
    torch.save(state, folder / "models" / "model.pt")
    return str(folder)


def nnunet(folder: Path) -> str:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from torch import nn

    arguments = {
        "n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": 3, "strides": [1, 2],
        "n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1, "conv_bias": True,
    }  # fmt: skip
    layers = {
        "conv_op": nn.Conv2d, "norm_op": nn.BatchNorm2d, "nonlin": nn.LeakyReLU
    }  # fmt: skip
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arguments | {k: f"torch.nn.{v.__name__}" for k, v in layers.items()},
        "_kw_requires_import": list(layers),
    }
    plans = {"configurations": {"2d": {"patch_size": [32, 32], "architecture": architecture}}}
    dataset = {"channel_names": {"0": "EM"}, "labels": {"background": 0, "a": [1, 2], "b": 2}}
    (folder / "fold_0").mkdir(parents=True)
    for name, document in (("plans", plans), ("dataset", dataset)):
        (folder / f"{name}.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    unet = PlainConvUNet(input_channels=1, num_classes=2, **arguments, **layers)
    state = responsive(unet, unet.decoder.seg_layers[-1]).state_dict()
    torch.save({"network_weights": state}, folder / "fold_0" / "checkpoint_final.pth")
    return str(folder)


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    unet = responsive_unet()
    state, script, export = (folder / n for n in ("unet.pt", "script.pt", "export.pt2"))
    torch.save(unet.state_dict(), state)
    small_networks._save_torchscript(unet, script)
    torch.export.save(small_networks.exported(unet), export)
    made.weights_of("onnx", folder, unet)
    architecture = {"architecture": small_networks.UNET, "arguments": small_networks.ARGUMENTS}
    return {
        "state_dict": {"format": "state_dict", "source": str(state), **architecture, **HALO},
        "torchscript": {"format": "torchscript", "source": str(script), **HALO},
        "torch_export": {"format": "torch_export", "source": str(export), **HALO},
        "onnx": {"format": "onnx", "source": str(folder / "model.onnx"), **HALO},
        "python": {
            "format": "python", "source": "small_networks:responsive_unet", "trust": True, **HALO
        },
        "monai": {"format": "monai", "source": bundle(folder / "bundle"), **HALO},
        "nnunet": {"format": "nnunet", "source": nnunet(folder / "nnunet"), **HALO},
        "pytorch3dunet": {"format": "pytorch3dunet", "source": plant(folder / "plant"), **HALO},
        **{
            f"bioimageio {kind}": {"format": "bioimageio", "source": package(folder / kind, kind)}
            for kind in ("pytorch_state_dict", "torchscript", "onnx")
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    path = folder / "bank.yaml"
    path.write_text(yaml.safe_dump({"schema": "cte-bank/1", "models": entries(folder)}))
    return path


@pytest.fixture(scope="module")
def target(tmp_path_factory, image) -> Path:
    """A target of the voxel size that the packages declare."""
    path = tmp_path_factory.mktemp("like-packages") / "target.zarr"
    size = (200.0, 100.0, 100.0)
    write_ome_zarr(path, image, axes="zyx", voxel_size_nm=size, chunks=(2, 64, 64))
    return path


@pytest.fixture(scope="module")
def run(target, bank) -> Path:
    out = bank.parent / "RUN"
    done = cte("rank", target, "--bank", bank, "--out", out, *SCORED, "--perturb", "mirror")
    assert done.exit_code == 0, done.output
    return out


def test_the_bank_holds_every_format_and_all_of_its_models_are_ranked(bank, run):
    models = yaml.safe_load(bank.read_text())["models"]
    assert {m["format"] for m in models.values()} == set(FORMATS)
    ranked = json.loads((run / "ranking.json").read_text())["models"]
    assert {m["name"] for m in ranked} == set(models)
    assert all(m["rank"] is not None for m in ranked)


@pytest.fixture(scope="module")
def labels(bank, image) -> Path:
    path = bank.parent / "labels.zarr"
    zarr.create_array(path, data=(image > 120).astype(np.uint8), chunks=(1, 64, 64))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "{target}", "--bank", "{bank}", *SCORED],
        ["models", "check", "{bank}"],
        ["status", "{run}"],
        ["report", "{run}", "--quiet"],
        ["maps", "{run}"],
        ["suggest", "{run}", "--tiles", "2", "--quiet", "--out", "{run}/drawn{way}"],
        ["evaluate", "{run}", "--labels", "{labels}", *SMALL],
        ["calibrate", "{target}", "--bank", "{bank}", "--out", "{run}/curve", *SMALL,
         "--tile", "1,32,32", "--perturb", "gaussian", "--strengths", "0.1,0.2",
         "--pilot-tiles", "4"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
@pytest.mark.parametrize("way", [[], ["--json"]], ids=["text", "json"])
def test_every_command_takes_every_format(target, bank, run, labels, command, way):
    places = {"way": len(way), "target": target, "bank": bank, "run": run, "labels": labels}
    more = ["--overwrite"] if way and command[0] in ("maps", "calibrate") else []
    done = cte(*(word.format(**places) for word in command), *way, *more)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 0, done.output
    if way:
        json.loads(done.stdout)
    elif command[0] == "report":
        page = (run / "report.html").read_text()
        for name in yaml.safe_load(bank.read_text())["models"]:
            assert name in page
