"""Train an example bank of small 2D U-Nets, one domain a model.

    python examples/train_bank.py nuclei --out cte_dask/demo/bank
    python examples/train_bank.py mitochondria --out DIR

reads labelled packs (``--data``, or the environment variable CTE_DATA), trains on their "train"
split and measures on their "test" split. It writes ``<model>.safetensors``, ``bank.yaml`` and
``training.json``. The same seed, steps and versions give the same weights on the same kind of
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from training.entries import bank_text, entry
from training.fit import CROP, Weights, build, f1, fit
from training.packs import read_pack, sha256
from training.recipes import BANKS, BATCH, Bank, Recipe

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    bank, recipes = BANKS[options.bank], {}
    for number, recipe in enumerate(bank.recipes):
        print(recipe.name, flush=True)
        pack = read_pack(_file(options.data, recipe.pack), split="train")
        trained = fit(recipe, pack, steps=options.steps, seed=options.seed + number)
        for name, weights in trained.items():
            file = options.out / f"{name}.safetensors"
            file.write_bytes(
                save(weights, metadata={"format": "pt"})
            )  # save_file hides it from others
            recipes[name] = (recipe, weights)
    _write_bank(options.out, bank, recipes)
    _write_record(options, recipes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", choices=sorted(BANKS))
    parser.add_argument("--out", type=Path, required=True, help="folder to write the bank to")
    default = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of the packs")
    parser.add_argument("--steps", type=int, default=1000, help="of training a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser.parse_args()


def _write_bank(out: Path, bank: Bank, recipes: dict[str, tuple[Recipe, Weights]]) -> None:
    models = {
        name: entry(
            out / f"{name}.safetensors",
            recipe.arguments,
            voxel_nm=bank.voxel_nm.get(recipe.pack),
        )
        for name, (recipe, _) in recipes.items()
    }
    (out / "bank.yaml").write_text(bank_text(models), encoding="utf-8")


def _write_record(options: argparse.Namespace, recipes: dict[str, tuple[Recipe, Weights]]) -> None:
    packs = sorted({recipe.pack for recipe, _ in recipes.values()})
    table = _table(options.data, packs, recipes)
    record = {
        "recipe": "examples/train_bank.py",
        "seed": options.seed,
        "steps": options.steps,
        "batch": BATCH,
        "crop": CROP,
        "dropout": Recipe.dropout,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "data_sha256": {pack: sha256(_file(options.data, pack)) for pack in packs},
        "trained_on": {name: recipe.pack for name, (recipe, _) in recipes.items()},
        "in_domain_f1": {name: table[name][recipe.pack] for name, (recipe, _) in recipes.items()},
        "f1": table,
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def _table(
    data: Path, packs: list[str], recipes: dict[str, tuple[Recipe, Weights]]
) -> dict[str, dict[str, float]]:
    """Return the F1 of every model on the test split of every pack."""
    table: dict[str, dict[str, float]] = {name: {} for name in recipes}
    for pack in packs:
        images = read_pack(_file(data, pack), split="test")
        for name, (recipe, weights) in recipes.items():
            table[name][pack] = round(f1(build(recipe, weights=weights), images), 4)
            print(f"{name} on {pack}: {table[name][pack]:.3f}", flush=True)
    return table


def _file(data: Path, pack: str) -> Path:
    path = data / f"{pack}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: name the folder of the packs with --data")
    return path


if __name__ == "__main__":
    main()
