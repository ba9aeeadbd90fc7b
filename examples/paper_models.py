"""Write a bank of all pytorch-3dunet models below a folder, such as an archive of the paper's.

    python examples/paper_models.py FOLDER --out bank.yaml

A model is a folder with one training configuration and a checkpoint. What is none is told with the
reason; no weights are loaded and no code of a model is run.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from cte_dask.models.formats.pytorch3dunet.config import configuration
from cte_dask.models.package import Package

CHECKPOINTS = (".pytorch", ".pt", ".pth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the archive was unpacked")
    parser.add_argument("--out", type=Path, default=Path("bank.yaml"))
    options = parser.parse_args()
    models = {}
    for folder in model_folders(options.folder):
        try:
            configuration(Package(folder), None)
        except ValueError as error:
            print(f"left out: {folder}: {error}")
            continue
        source = os.path.relpath(folder, options.out.parent)
        models[name_of(folder, options.folder)] = {"format": "pytorch3dunet", "source": source}
    if not models:
        raise SystemExit(f"no model of pytorch-3dunet below {options.folder}")
    bank = {"schema": "cte-bank/1", "models": models}
    options.out.write_text(yaml.safe_dump(bank, sort_keys=False))
    print(f"{len(models)} models in {options.out}")


def model_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders that hold a checkpoint, in order of their names."""
    holders = {p.parent for p in folder.rglob("*") if p.suffix in CHECKPOINTS}
    yield from sorted(holders)


def name_of(folder: Path, root: Path) -> str:
    """Return a folder's path below the root as a name: ``nuclei/BBBC/2d`` is ``nuclei-BBBC-2d``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", str(folder.relative_to(root))).strip("-") or root.name


if __name__ == "__main__":
    main()
