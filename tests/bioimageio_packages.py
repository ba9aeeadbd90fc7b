"""Writing BioImage.IO packages of a network, as a zoo would hold them."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_entry(path: Path, **rest: Any) -> dict[str, Any]:
    return {"source": path.name, "sha256": digest(path), **rest}


def space(axis: str, **rest: Any) -> dict[str, Any]:
    scale = {"z": 0.2, "y": 0.1, "x": 0.1}[axis]
    return {"type": "space", "id": axis, "unit": "micrometer", "scale": scale, **rest}


def reference(axis: str) -> dict[str, Any]:
    return {"size": {"tensor_id": "raw", "axis_id": axis}}


def axes(tensor: str, order: str, channels: tuple[str, ...], step: int, halo: int) -> list[Any]:
    made: dict[str, dict[str, Any]] = {
        "b": {"type": "batch"},
        "c": {"type": "channel", "channel_names": list(channels)},
    }
    for axis in "zyx":
        size = {"size": {"min": 16 * step, "step": step}} if tensor == "raw" else reference(axis)
        if tensor != "raw" and halo:
            size["halo"] = halo
        made[axis] = space(axis, **size)
    return [made[letter] for letter in order]


def description(folder: Path, **keys: Any) -> dict[str, Any]:
    """Return the document of an rdf.yaml.

    `keys` may hold weights, order, pre, post, channels (of the output), inputs (of the image).
    """
    order = keys.get("order", "bcyx")
    channels = keys.get("channels", ("foreground",))
    np.save(folder / "test_raw.npy", np.zeros([1] * len(order), np.float32))
    np.save(folder / "test_out.npy", np.zeros([1] * len(order), np.float32))
    (folder / "README.md").write_text("# Small\n\n## Validation\n\nNone: a test.\n")
    step, halo = keys.get("step", 2), keys.get("halo", 8)
    return {
        "format_version": "0.5.4",
        "type": "model",
        "name": "small unet",
        "description": "A small network",
        "authors": [{"name": "Nobody"}],
        "cite": [{"text": "none", "doi": "10.1007/978-3-319-24574-4_28"}],
        "license": "MIT",
        "documentation": "README.md",
        "inputs": [
            {
                "id": "raw",
                "axes": axes("raw", order, keys.get("inputs", ("raw",)), step, halo),
                "data": {"type": "float32"},
                "test_tensor": file_entry(folder / "test_raw.npy"),
                "preprocessing": keys.get("pre", []),
            }
        ],
        "outputs": [
            {
                "id": "mask",
                "axes": axes("mask", order, channels, step, halo),
                "data": {"type": "float32"},
                "test_tensor": file_entry(folder / "test_out.npy"),
                "postprocessing": keys.get("post", []),
            }
        ],
        "weights": keys["weights"],
    }


def description_0_4(folder: Path, **keys: Any) -> dict[str, Any]:
    """Return the document of an rdf.yaml of version 0.4; `keys` as of `description`, and shapes."""
    order = keys.get("order", "bcyx")
    test_files = {"test_inputs": "test_raw.npy", "test_outputs": "test_out.npy"}
    for name in test_files.values():
        np.save(folder / name, np.zeros([1] * len(order), np.float32))
    (folder / "README.md").write_text("# Small\n\n## Validation\n\nNone: a test.\n")
    step, halo = keys.get("step", 2), keys.get("halo", 8)
    channels = len(keys.get("inputs", ("raw",)))
    size = {"b": (1, 0), "c": (channels, 0)} | dict.fromkeys("zyx", (16 * step, step))
    shape = {"min": [size[a][0] for a in order], "step": [size[a][1] for a in order]}
    reference = {
        "reference_tensor": "raw",
        # the mask has one channel, whatever the image has
        "scale": [0.0 if a == "c" and channels > 1 else 1.0 for a in order],
        "offset": [0.5 if a == "c" and channels > 1 else 0.0 for a in order],
    }
    return {
        "format_version": "0.4.10",
        "type": "model",
        "name": "small unet",
        "description": "A small network",
        "authors": [{"name": "Nobody"}],
        "cite": [{"text": "none", "doi": "10.1007/978-3-319-24574-4_28"}],
        "license": "MIT",
        "documentation": "README.md",
        "tags": [],
        "timestamp": "2024-01-01T00:00:00",
        **{key: [name] for key, name in test_files.items()},
        "inputs": [
            {
                "name": "raw",
                "axes": order,
                "data_type": "float32",
                "data_range": ["-inf", "inf"],
                "shape": keys.get("shape", shape),
                "preprocessing": keys.get("pre", []),
            }
        ],
        "outputs": [
            {
                "name": "mask",
                "axes": order,
                "data_type": "float32",
                "data_range": ["-inf", "inf"],
                "shape": keys.get("output_shape", reference),
                "halo": [halo if a in "zyx" else 0 for a in order],
                "postprocessing": keys.get("post", []),
            }
        ],
        "weights": keys["weights"],
    }


def as_of_0_4(entry: dict[str, Any]) -> None:
    """Turn the entry of a state dict into one of version 0.4."""
    architecture = entry.pop("architecture")
    entry["architecture"] = f"{architecture['import_from']}.{architecture['callable']}"
    entry["kwargs"] = architecture["kwargs"]
    del entry["pytorch_version"]


def write_rdf(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "rdf.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def state_dict_weights(
    folder: Path, network: nn.Module, *, channels: int = 1, **architecture: Any
) -> dict[str, Any]:
    path = folder / "weights.pt"
    torch.save(network.state_dict(), path)
    known = {
        "import_from": "cte_dask.models.unet",
        "callable": "UNet",
        "kwargs": {"dims": 2, "features": [4, 8], "in_channels": channels},
    }
    return file_entry(
        path,
        architecture=architecture or known,
        pytorch_version=torch.__version__.partition("+")[0],
    )


def torchscript_weights(folder: Path, network: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    path = folder / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making one is deprecated, and so noisy
        torch.jit.save(torch.jit.trace(network, x), path)
    return file_entry(path, pytorch_version=torch.__version__.partition("+")[0])


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder) + "-packed", "zip", folder))


def weights_of(kind: str, folder: Path, network: nn.Module, *, channels: int = 1) -> dict[str, Any]:
    """Return the entry of one kind of weights of a network for planes of some channels."""
    example = torch.rand(1, channels, 32, 32)
    if kind == "pytorch_state_dict":
        return state_dict_weights(folder, network, channels=channels)
    if kind == "torchscript":
        return torchscript_weights(folder, network, example)
    path = folder / "model.onnx"
    names = {0: "batch", 2: "y", 3: "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter of torch warns about itself
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=False,
            input_names=["raw"],
            output_names=["mask"],
            dynamic_axes={"raw": names, "mask": names},
        )
    return file_entry(path, opset_version=17)
