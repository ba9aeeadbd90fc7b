"""The benchmark's U-Net as a BioImage.IO package, predicted block by block by bioimageio.core."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn


def blockwise_prediction(
    network: nn.Module,
    features: tuple[int, ...],
    volume: np.ndarray,
    folder: Path,
    frame: int,
    halo: int,
) -> Callable[[], Any]:
    """Return the prediction of every plane in blocks of frame^2 voxels, halo included.

    The model stays loaded between calls, as ours does.
    """
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    folder.mkdir()
    _write_package(folder, network, features, frame, halo)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model_description(folder / "rdf.yaml", perform_io_checks=False)
        pipeline = create_prediction_pipeline(model, devices=["cpu"])
        pipeline.load()
    shape = {"raw": {"batch": 1, "channel": 1, "y": frame, "x": frame}}
    images = [plane.astype(np.float32)[None, None] for plane in volume]

    def run() -> list[np.ndarray]:
        masks = []
        for number, image in enumerate(images):
            sample = create_sample_for_model(model, inputs=image, sample_id=number)
            done = pipeline.predict_sample_with_fixed_blocking(sample, shape)
            masks.append(done.members["mask"].data.to_numpy()[0, 0])
        return masks

    return run


def _entry(path: Path, **rest: Any) -> dict[str, Any]:
    return {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **rest}


def _write_package(
    folder: Path, network: nn.Module, features: tuple[int, ...], frame: int, halo: int
) -> None:
    torch.save(network.state_dict(), folder / "weights.pt")
    for name in ("in", "out"):
        np.save(folder / f"{name}.npy", np.zeros((1, 1, frame, frame), np.float32))
    (folder / "README.md").write_text("# U-Net\n\n## Validation\n\nNone: a benchmark.\n")
    step = 2 ** (len(features) - 1)
    unit = {"type": "space", "unit": "nanometer", "scale": 5.0}
    inward = [{**unit, "id": a, "size": {"min": 2 * halo + step, "step": step}} for a in "yx"]
    outward = [
        {**unit, "id": a, "size": {"tensor_id": "raw", "axis_id": a}, "halo": halo} for a in "yx"
    ]
    first = [{"type": "batch"}, {"type": "channel", "channel_names": ["intensity"]}]
    linear = {"id": "scale_linear", "kwargs": {"gain": 0.01, "offset": -1.0}}
    document = {
        "format_version": "0.5.4", "type": "model", "name": "small U-Net", "description": "A U-Net",
        "authors": [{"name": "Nobody"}], "license": "MIT", "documentation": "README.md",
        "cite": [{"text": "U-Net", "doi": "10.1007/978-3-319-24574-4_28"}],
        "inputs": [{
            "id": "raw", "axes": first + inward, "data": {"type": "float32"},
            "test_tensor": _entry(folder / "in.npy"), "preprocessing": [linear],
        }],
        "outputs": [{
            "id": "mask", "axes": first + outward, "data": {"type": "float32"},
            "test_tensor": _entry(folder / "out.npy"), "postprocessing": [{"id": "sigmoid"}],
        }],
        "weights": {"pytorch_state_dict": _entry(
            folder / "weights.pt", pytorch_version=torch.__version__.partition("+")[0],
            architecture={
                "import_from": "cte_dask.models.unet", "callable": "UNet",
                "kwargs": {"dims": 2, "features": list(features)},
            },
        )},
    }  # fmt: skip
    (folder / "rdf.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
