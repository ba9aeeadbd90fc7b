"""Pictures of tiles on which CTE and performance disagree: image, labels, models, what changed.

    python benchmarks/paper/pictures.py --cache DIR --task nuclei --target n_mnf_rpe1 \\
        --model nuclei-large360 --model nuclei-fibro256 --out docs/disagreement.png

White: foreground of both passes; orange: of the reference alone; blue: of the perturbed one alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from study import FEATURE, INPUT

from cte_dask.consistency.score_names import ScoreName
from cte_dask.perturb import draws_of
from cte_dask.results.experiment_file import reopen
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.volume import open_volume

RESULTS = Path(__file__).resolve().parents[1] / "results" / "paper"
BOTH, REFERENCE, PERTURBED = (1, 1, 1), (0.95, 0.6, 0.1), (0.2, 0.55, 1)


def changed(reference: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
    """Colour two foregrounds (y, x): what both hold and what only one of them does."""
    picture = np.zeros((*reference.shape, 3))
    picture[reference & perturbed] = BOTH
    picture[reference & ~perturbed] = REFERENCE
    picture[~reference & perturbed] = PERTURBED
    return picture


def panels(options: argparse.Namespace) -> list[tuple[str, Any]]:
    record = json.loads((RESULTS / f"{options.task}-{options.target}.json").read_text())
    scores = {m["name"]: m for m in record["models"]}
    runs = sorted(
        (options.cache / "runs" / options.task / options.target).glob("*/experiment.yaml")
    )
    if not runs:
        raise SystemExit(f"{options.target} has not been run: python benchmarks/paper/run.py first")
    experiment = reopen(str(runs[-1].parent))
    draws = draws_of(experiment.perturbations, 1)
    tile, masks = None, {}
    for name, where, maps in predict_tiles(experiment, options.block, draws):
        if name in options.model and name not in masks:
            tile, masks[name] = where, [m[0] > 0.5 for m in maps]
    if tile is None or len(masks) < len(options.model):
        raise SystemExit(f"no model {set(options.model) - set(masks)} in block {options.block}")
    image = experiment.volume.read(tile.start, tile.stop)[0]
    labels = open_volume(f"{options.cache}/targets/{options.target}.zarr/labels/{options.labels}")
    shown = [("image", image), ("labels", labels.read(tile.start, tile.stop)[0] > 0)]
    names = [d.perturbation.name for d in draws]
    for name in options.model:
        reference, *perturbed = masks[name]
        for kind in (FEATURE, INPUT):
            cte = scores[name]["scores"][str(ScoreName("nhd", kind))]["own"]
            title = f"{name}, F1 {scores[name]['f1']:.2f}\n{kind}: CTE {cte:.3f}"
            shown.append((title, changed(reference, perturbed[names.index(kind)])))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--labels", default="nuclei", help="name of the labels")
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--block", type=int, default=0, help="whose first tile is shown")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    shown = panels(options)
    figure, axes = plt.subplots(1, len(shown), figsize=(2.4 * len(shown), 2.9))
    for ax, (title, picture) in zip(axes, shown, strict=True):
        ax.imshow(picture, cmap="gray")
        ax.set_title(title, fontsize=7)
        ax.axis("off")
    figure.tight_layout()
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
