"""Training a small network that gives maps from which labels are made, and looking at the labels.

What ``cellpose_style.py`` and ``stardist_style.py`` share: crops of a labelled pack, the loop, the
files written, and how well labels match. The target maps and the loss are the examples' own.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from cte_dask.models.unet import UNet

REPOSITORY = Path(__file__).resolve().parents[1]
PACK = "n_dsb_b256_fibro"
CROP, BATCH, RATE = 96, 8, 4e-3
LOW, HIGH = 1, 99.8

Labels = NDArray[np.integer[Any]]
Targets = Callable[[Labels], NDArray[np.float32]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Images:
    """Images float32 (n, y, x), scaled as at inference, and their instance labels (n, y, x)."""

    images: NDArray[np.float32]
    labels: Labels


def read_images(path: Path, *, split: str) -> Images:
    """Read the images of one split ("train" or "test"), each scaled by its own percentiles."""
    with np.load(path) as arrays:
        chosen = arrays["split"] == split
        raw, labels = arrays["raw"][chosen].astype(np.float32), arrays["label"][chosen]
    low, high = np.percentile(raw, (LOW, HIGH), axis=(1, 2), keepdims=True)
    scaled = ((raw - low) / np.maximum(high - low, 1)).astype(np.float32)
    return Images(scaled, labels.astype(np.int32))


def train(network: UNet, images: Images, targets: Targets, loss: Loss, *, steps: int) -> None:
    """Train on random crops of varied brightness, contrast and noise; seed 0."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    maps = [targets(labels) for labels in images.labels]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    for step in range(1, steps + 1):
        image, wanted = _batch(images.images, maps, rng)
        optimizer.zero_grad(set_to_none=True)
        error = loss(network(image), wanted)
        error.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"  {step}/{steps} loss {error.item():.3f}", flush=True)
    network.eval()


def _batch(
    images: NDArray[np.float32], maps: list[NDArray[np.float32]], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    pairs = []
    for _ in range(BATCH):
        n, y, x = rng.integers((len(images), *(e - CROP + 1 for e in images.shape[1:])))
        box = (slice(y, y + CROP), slice(x, x + CROP))
        pairs.append((_varied(images[n][box], rng), maps[n][:, *box]))
    image, wanted = (np.stack(stack).astype(np.float32) for stack in zip(*pairs, strict=True))
    return torch.from_numpy(image)[:, None], torch.from_numpy(wanted)


def _varied(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    noise = rng.standard_normal(image.shape) * rng.uniform(0, 0.1)
    return image * rng.uniform(0.6, 1.5) + rng.uniform(-0.1, 0.1) + noise


def matched(labels: Labels, truth: Labels) -> NDArray[np.float64]:
    """Return, for each true object, its IoU with the object that overlaps it most; 0 if none."""
    predicted, true = np.unique(labels), np.unique(truth)
    table, _, _ = np.histogram2d(
        np.searchsorted(true, truth).ravel(),
        np.searchsorted(predicted, labels).ravel(),
        bins=(np.arange(len(true) + 1), np.arange(len(predicted) + 1)),
    )
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table
    best: NDArray[np.float64] = (table / union)[np.ix_(true > 0, predicted > 0)].max(
        axis=1, initial=0
    )
    return best


def labels_of(model: nn.Module, images: NDArray[np.float32]) -> Labels:
    """Return the labels (n, y, x) that a labelling model gives, image by image."""
    with torch.inference_mode():
        labels = [model(torch.from_numpy(image)[None, None])[0, 0].numpy() for image in images]
    return np.stack(labels)


def write(
    out: Path, network: UNet, entry: Mapping[str, object], *, name: str, iou: NDArray[np.float64]
) -> None:
    """Write the weights and a ``bank.yaml`` that names them by their absolute path."""
    import yaml

    out.mkdir(parents=True, exist_ok=True)
    weights = (out / f"{name}.safetensors").resolve()
    save_file(network.state_dict(), weights)
    arguments = {"weights": str(weights)}
    bank = {"schema": "cte-bank/1", "models": {name: {**entry, "arguments": arguments}}}
    (out / "bank.yaml").write_text(yaml.safe_dump(bank, sort_keys=False), encoding="utf-8")
    measures = {
        "objects": len(iou),
        "median IoU": float(np.median(iou)),
        "found": _share_matched(iou),
    }
    (out / "labels.json").write_text(json.dumps(measures, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {measures}", flush=True)


def _share_matched(iou: NDArray[np.float64]) -> float:
    return float((iou > 0.5).mean())


def draw(path: Path, images: NDArray[np.float32], labels: Labels, truth: Labels) -> None:
    """Draw, a row an image, the image and the outlines of the true and the found objects."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(images), 3, figsize=(9, 3 * len(images)), squeeze=False)
    for row, image, labelled, true in zip(axes, images, labels, truth, strict=True):
        for axis, (title, drawn) in zip(
            row, (("image", None), ("true", true), ("found", labelled)), strict=True
        ):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            if drawn is not None:
                axis.imshow(_coloured(drawn), interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _coloured(labels: Labels) -> NDArray[np.float64]:
    """RGBA: a colour an object, half transparent, no colour in the background."""
    colours = np.random.default_rng(1).uniform(0.2, 1, (int(labels.max()) + 1, 4))
    colours[:, 3] = 0.55
    colours[0] = 0
    return colours[labels]


def options(description: str) -> argparse.Namespace:
    """Read the command line of an example."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights and bank")
    default = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of the packs")
    parser.add_argument("--pack", default=PACK, help="labelled pack to train on")
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--picture", type=Path, help="PNG of the labels of three test images")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    path = arguments.data / f"{arguments.pack}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: name the folder of the packs with --data")
    torch.set_num_threads(arguments.threads)
    return arguments


def run(
    arguments: argparse.Namespace,
    model: nn.Module,
    network: UNet,
    targets: Targets,
    loss: Loss,
    *,
    name: str,
    entry: Mapping[str, object],
) -> None:
    """Train the network of a labelling model, measure its labels, and write what was asked for."""
    path = arguments.data / f"{arguments.pack}.npz"
    train(network, read_images(path, split="train"), targets, loss, steps=arguments.steps)
    test = read_images(path, split="test")
    labels = labels_of(model.eval(), test.images)
    iou = np.concatenate([matched(a, b) for a, b in zip(labels, test.labels, strict=True)])
    write(arguments.out, network, entry, name=name, iou=iou)
    if arguments.picture:
        draw(arguments.picture, test.images[:3], labels[:3], test.labels[:3])
