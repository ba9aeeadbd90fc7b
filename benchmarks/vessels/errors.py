"""Errors that networks share: what votes alone cannot tell from the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from images import Images
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from predictions import REFERENCE, Masks

__all__ = ["draw_errors", "shared_errors"]

Pixels = npt.NDArray[np.bool_]

HIT, ADDED, MISSED = (255, 255, 255), (230, 70, 60), (70, 130, 255)


def shared_errors(reference: Sequence[Sequence[Pixels]], truth: Sequence[Pixels]) -> float:
    """Return the share of a network's wrong pixels that most of the others have wrong, too.

    Parameters
    ----------
    reference
        Foreground of each network on each image, bool (pixel,).
    truth
        Vessels of each image by labels, bool (pixel,).

    Returns
    -------
    float
        The mean over networks; chance errors would make it about 0.
    """
    shares = []
    for number, own in enumerate(reference):
        others = [masks for i, masks in enumerate(reference) if i != number]
        wrong = shared = 0
        for image, label in enumerate(truth):
            error = own[image] ^ label
            votes = sum((masks[image] ^ label).astype(np.int64) for masks in others)
            wrong += int(error.sum())
            shared += int((error & (2 * votes > len(others))).sum())
        shares.append(shared / max(wrong, 1))
    return float(np.mean(shares))


def draw_errors(path: Path, targets: Sequence[tuple[str, Images, Sequence[Masks]]]) -> None:
    """Draw, for the first image of each target, where most networks agree with its labels.

    Parameters
    ----------
    path
        PNG to write.
    targets
        Of each its title, its images and the usable networks.
    """
    figure = Figure(figsize=(9.6 * len(targets), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 * len(targets), squeeze=False)[0]
    for number, (title, images, bank) in enumerate(targets):
        votes = np.sum([masks.get(0, REFERENCE) for masks in bank], axis=0)
        colours = _coloured(2 * votes > len(bank), images.label[0], images.view[0])
        _show(panels[2 * number], images.raw[0], title)
        _show(panels[2 * number + 1], colours, f"most of {len(bank)} networks against labels")
    figure.savefig(path, dpi=80)


def _coloured(majority: Pixels, label: Pixels, view: Pixels) -> npt.NDArray[np.uint8]:
    """White where both see a vessel, red where only most networks do, blue where only labels do."""
    colours = np.zeros((*label.shape, 3), np.uint8)
    colours[majority & label & view] = HIT
    colours[majority & ~label & view] = ADDED
    colours[~majority & label & view] = MISSED
    return colours


def _show(axes: Any, picture: npt.NDArray[np.uint8], title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title)
    axes.set_axis_off()
