"""Rank thirteen published vessel networks on two targets without labels; compare with labels.

    python benchmarks/vessels/run.py --cache DIR [--only NETWORK]… [--target NAME]… [--out DIR]

``CTE_DATA`` names the folder of the packs, ``CTE_ZOO`` that of the published weights. Predictions
are kept in the cache; ``--only`` makes those of some networks and stops, so that several processes
can share the work.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from bank import NETWORKS, Network
from errors import draw_errors
from evidence import record_of
from images import TARGETS, Images, Target, read_images
from predictions import PERTURBATIONS, REFERENCE, Masks
from vessel_tables import write_figure, write_records, write_tables

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
DOCS = REPOSITORY / "docs"


def main() -> None:
    options = _options()
    os.nice(options.nice)
    torch.set_num_threads(1)
    cache = options.cache.expanduser()
    networks = [n for n in NETWORKS if options.only is None or n.name in options.only]
    records, usable = [], []
    for target in TARGETS:
        if options.target is not None and target.name not in options.target:
            continue
        images = read_images(target)
        bank = [predict(target, images, network, cache) for network in networks]
        if options.only is None:
            records.append(record_of(target, images, bank))
            usable.append((target.title, images, [m for m in bank if not m.is_empty()]))
    if records:
        write_records(options.out / "vessels.json", records)
        write_tables(options.out / "vessels.md", records)
        write_figure(DOCS / "evidence-vessels.png", records)
        # pictures of the targets stay in the cache: their licence is for research alone
        draw_errors(cache / "errors.png", usable)
        print(options.out / "vessels.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of predictions")
    parser.add_argument("--only", action="append", choices=[n.name for n in NETWORKS])
    parser.add_argument("--target", action="append", choices=[t.name for t in TARGETS])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--nice", type=int, default=10)
    return parser.parse_args()


def predict(target: Target, images: Images, network: Network, cache: Path) -> Masks:
    """Make all predictions of one network that the cache lacks.

    A network that predicts nothing is flagged and ranked below all others: it is not perturbed.
    """
    masks = Masks(cache / target.name, network, images)
    wanted = (REFERENCE,) if masks.is_empty() else (REFERENCE, *PERTURBATIONS)
    for perturbation in wanted:
        for number in range(len(images)):
            masks.get(number, perturbation)
        print(f"{target.title}: {network.name} {perturbation}", flush=True)
    return masks


if __name__ == "__main__":
    main()
