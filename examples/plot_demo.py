"""Draw what ``cte demo`` found: tiles, predictions of two models, and the ranking.

cte demo --out demo-run && python examples/plot_demo.py demo-run docs/demo.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import cte_dask
from cte_dask.demo import LABELS, bank_path
from cte_dask.perturb import draws_of
from cte_dask.scoring.score_block import predict_tiles


def predictions(run: Path, names: list[str], z: int) -> dict[str, Any]:
    volume = cte_dask.open_volume(str(run / "target.zarr"))
    bank = cte_dask.load_bank(str(bank_path())).select(names)
    experiment = cte_dask.resolve(volume, bank, perturbations=["dropout:0.2"], block=(1, 1, 1))
    index = experiment.blocks.counts[1] * experiment.blocks.counts[2] * z
    draws = draws_of(experiment.perturbations, 1)
    pictures = {name: maps for name, _, maps in predict_tiles(experiment, index, draws)}
    tile = experiment.grid.tile_at(index)
    truth = cte_dask.open_volume(str(run / "target.zarr" / "labels" / LABELS))
    box = tile.start, tile.stop
    return {"image": volume.read(*box)[0], "truth": truth.read(*box)[0] > 0, **pictures}


def draw(run: Path, picture: Path, z: int) -> None:
    ranking = json.loads((run / "run" / "ranking.json").read_text())
    ranked = [m for m in ranking["models"] if m["rank"] is not None]
    sound = [m for m in ranked if not m["flags"]]
    chosen = [sound[0], sound[-1], *[m for m in ranked if m["flags"]][:1]]
    shown = predictions(run, [m["name"] for m in chosen], z)
    tiles = list(range(1 + len(chosen)))
    figure, named = plt.subplot_mosaic(
        [tiles, [-1] * len(tiles)], figsize=(11, 6), height_ratios=[1.3, 1], layout="constrained"
    )
    axes = [named[i] for i in (*tiles, -1)]
    axes[0].imshow(shown["image"], cmap="gray")
    axes[0].set_title("an unlabelled tile", fontsize=9)
    for axis, model in zip(axes[1:], chosen, strict=False):
        reference, perturbed = (p[0] > 0.5 for p in shown[model["name"]])
        colours = np.zeros((*reference.shape, 3))
        colours[reference & perturbed] = (0.85, 0.85, 0.85)
        colours[reference ^ perturbed] = (0.9, 0.35, 0.0)
        axis.imshow(colours)
        title = f"rank {model['rank']}: {model['name']}"
        axis.set_title("\n".join([title, *(f"flagged: {f}" for f in model["flags"])]), fontsize=9)
    for axis in axes[:-1]:
        axis.set_axis_off()
    axes[-1].set_title("above, grey: foreground; orange: changed under perturbation", fontsize=9)
    scores = [m["estimated_f1"] for m in ranked]
    heights = np.arange(len(ranked))[::-1]
    middle = np.array([s["value"] for s in scores])
    low, high = (np.array([s[k] for s in scores]) for k in ("low", "high"))
    axes[-1].errorbar(middle, heights, xerr=[middle - low, high - middle], fmt="o", color="#0b6e99")
    labels = [f"{m['name']} (flagged)" if m["flags"] else m["name"] for m in ranked]
    axes[-1].set_yticks(heights, labels)
    axes[-1].set_xlabel("estimated F1 (95 % interval)")
    axes[-1].spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder that cte demo wrote")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--plane", type=int, default=6)
    options = parser.parse_args()
    draw(options.run, options.picture, options.plane)


if __name__ == "__main__":
    main()
