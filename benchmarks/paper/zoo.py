"""Rank zoos of siblings by every family of evidence, and by all of them combined.

    python benchmarks/paper/zoo.py --cache DIR [--task NAME]… [--target NAME]… [--out DIR]

On every target only the models that have seen neither its labels nor its images are ranked: in a
real zoo nobody is at home, and a model that is would lift the agreement of its siblings. One pass a
target: dropout, noise, a quarter turn, a mirror, a magnification, the agreement between the models;
the combined rank is `cte_dask.ranking.combination`'s, fixed before any of these targets was scored.
Labels are read after the ranking. A record that is there, made of the same bank, recipe and data,
is kept.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from study import FEATURE, INPUT, Plan, Task, at_home, identity, planes_of
from targets import TARGETS, make_targets
from train import train_banks
from zoo_tables import write_zoo_tables

from cte_dask.evaluation.evaluate_run import evaluate_run
from cte_dask.ranking.rank_target import rank_target
from cte_dask.report.evaluation import evaluation_dict, write_evaluation
from cte_dask.scoring.settings import TargetOptions

RESULTS = Path(__file__).resolve().parents[1] / "results" / "paper-zoo"
SCHEMA = "cte-zoo-target/1"
PERTURBATIONS = (FEATURE, INPUT, "rotate", "mirror", "zoom:1.125")
METRICS = ("nhd", "agreement")
TILES = {"nuclei-zoo": 8, "mitochondria-zoo": 16}
TASKS = {
    "nuclei-zoo": Task("nuclei-zoo", "n_", "nuclei", METRICS),
    "mitochondria-zoo": Task("mitochondria-zoo", "m_", "mitochondria", METRICS),
}


def main() -> None:
    options = _options()
    os.nice(options.nice)
    cache = options.cache.expanduser()
    banks = train_banks(cache)
    wanted = [t for t in TARGETS if options.target is None or t.name in options.target]
    images = make_targets(cache, targets=tuple(wanted))
    records = []
    for task in (TASKS[name] for name in options.task or TASKS):
        for name, image in images.items():
            if name.startswith(task.prefix):
                records.append(_record(task, banks[task.name], image, cache, options))
                write_zoo_tables(options.out, records)
    print(options.out / "tables.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="of weights, targets and runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--task", action="append", choices=sorted(TASKS))
    parser.add_argument("--target", action="append", choices=[t.name for t in TARGETS])
    parser.add_argument("--nice", type=int, default=10)
    return parser.parse_args()


def _record(
    task: Task, bank: Path, image: Path, cache: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Rank, evaluate and record one target."""
    plan = Plan(PERTURBATIONS, tiles=TILES[task.name])
    planes = planes_of(plan, image)
    path = options.out / f"{task.name}-{image.stem}.json"
    wanted = identity(task, plan, bank, image)
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        if known["identity"] == wanted:
            print(f"{task.name} on {image.stem}: known", flush=True)
            return known
    print(f"{task.name} on {image.stem}", flush=True)
    folder = cache / "runs-zoo" / task.name / image.stem
    folder.mkdir(parents=True, exist_ok=True)
    left_out = at_home(bank, image)
    (folder / "bank.yaml").write_text(_foreign(bank, left_out))
    combined = _ranked(plan, planes, image, folder)
    groups = json.loads(image.with_suffix(".json").read_text())["groups"][:planes]
    found = evaluate_run(
        str(folder / "run"),
        str(image / "labels" / task.labels),
        cluster="none",
        seed=plan.seed,
        bootstrap=groups,
        features=False,
        tell=lambda line: print(line, flush=True),
    )
    write_evaluation(str(folder / "run"), found)
    record = {
        "schema": SCHEMA,
        "task": task.name,
        "target_name": image.stem,
        "identity": wanted,
        "recipe": {**asdict(task), **plan.recipe},
        "left_out": left_out,
        "combined": combined,
        **_slim(evaluation_dict(found)),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record


def _foreign(bank: Path, left_out: dict[str, str]) -> str:
    """Return the bank's text without the models that know the target, weights where they lie."""
    document = yaml.safe_load(bank.read_text())
    document["models"] = {n: m for n, m in document["models"].items() if n not in left_out}
    for model in document["models"].values():
        model["source"] = str((bank.parent / model["source"]).resolve())
    return yaml.safe_dump(document, sort_keys=False)


def _ranked(plan: Plan, planes: int, image: Path, folder: Path) -> dict[str, Any]:
    outcome = rank_target(
        TargetOptions(str(image), roi=f"0:{planes},:,:"),
        str(folder / "bank.yaml"),
        str(folder / "run"),
        cluster="none",
        workers=1,
        overwrite=True,
        perturbations=plan.perturbations,
        metrics=METRICS,
        combine=True,
        tile=plan.tile,
        seed=plan.seed,
        device="cpu",
    )
    combined: dict[str, Any] = outcome.result["combined"]
    return combined


def _slim(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return what the tables need."""
    models = [
        {name: m[name] for name in ("name", "rank", "flags", "f1", "n_labelled", "scores")}
        for m in evaluation["models"]
    ]
    return {
        "models": models,
        "n_tiles": evaluation["n_tiles"],
        "n_labelled": evaluation["n_labelled"],
        "versions": evaluation["versions"],
    }


if __name__ == "__main__":
    main()
