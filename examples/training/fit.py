"""Training one network, and the F1 of a network on a pack."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cte_dask.models.unet import UNet

from .augment import batch
from .packs import Pack
from .recipes import Recipe

Weights = dict[str, Tensor]
THRESHOLD = 0.5
CROP = 128
DECAY = 1e-4


def _show(line: str) -> None:
    print(line, flush=True)


def fit(
    recipe: Recipe,
    pack: Pack,
    *,
    steps: int,
    seed: int,
    start: Weights | None = None,
    tell: Callable[[str], None] = _show,
) -> dict[str, Weights]:
    """Train on one pack; return the weights of the recipe's model and of its early checkpoints.

    AdamW under a one-cycle schedule, the sum of binary cross-entropy and soft Dice loss, spatial
    dropout in training. Everything random comes from ``seed``. With ``start`` those weights are
    trained further; ``tell`` takes a line on the progress every hundred steps.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = build(recipe, dropout=recipe.dropout, weights=start).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=DECAY)
    total = max(10, round(steps * recipe.length))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=total)
    checkpoints: dict[str, Weights] = {}
    begun = time.monotonic()
    for step in range(1, total + 1):
        drawn = batch(pack, recipe.augmentation, rng, size=CROP, number=recipe.batch)
        loss = _step(network, drawn, mixed=recipe.mixed)
        optimizer.step()
        schedule.step()
        for name, fraction in recipe.early:
            if step == round(total * fraction):
                checkpoints[name] = _weights(network)
        if step % 100 == 0:
            tell(f"  {step}/{total} loss {loss:.3f} {time.monotonic() - begun:.0f} s")
    checkpoints[recipe.name] = _weights(network)
    return checkpoints


def build(
    recipe: Recipe, *, dropout: float = 0.0, weights: Mapping[str, Tensor] | None = None
) -> UNet:
    """Return the recipe's network, with these weights if any are given."""
    network = UNet(dims=2, dropout=dropout, **recipe.arguments)  # type: ignore[arg-type]
    if weights is not None:
        network.load_state_dict(weights)
    return network


def f1(network: UNet, pack: Pack) -> float:
    """Return the median, over images with foreground, of the F1 of the foreground's pixels."""
    network.eval()
    scores = [
        _f1(predict(network, image), mask)
        for image, mask in zip(pack.images, pack.masks, strict=True)
        if mask.any()
    ]
    return float(np.median(scores))


def _step(network: UNet, drawn: tuple[Tensor, Tensor], *, mixed: bool) -> float:
    images, masks = drawn
    network.train()
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        logits = network(images.contiguous(memory_format=torch.channels_last)).float()
    loss = F.binary_cross_entropy_with_logits(logits, masks) + _dice_loss(logits, masks)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    return float(loss.detach())


def _dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice over the batch; the 1 keeps batches without foreground finite."""
    foreground = torch.sigmoid(logits)
    overlap = (foreground * masks).sum()
    return 1 - (2 * overlap + 1) / (foreground.sum() + masks.sum() + 1)


def predict(network: UNet, image: np.ndarray) -> np.ndarray:
    """Return the foreground (y, x), bool, that a network in evaluation mode finds in one image."""
    height, width = image.shape
    grown = [-extent % network.multiple for extent in image.shape]
    padded = np.pad(image, [(0, extra) for extra in grown], mode="reflect")
    with torch.inference_mode():
        logits = network(torch.from_numpy(padded)[None, None])
    return torch.sigmoid(logits)[0, 0, :height, :width].numpy() > THRESHOLD


def _f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def _weights(network: UNet) -> Weights:
    return {name: value.clone().contiguous() for name, value in network.state_dict().items()}
