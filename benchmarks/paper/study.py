"""One target of the paper's experiment: rank a bank, evaluate the run, record what came out.

Everything that could be chosen is here and fixed: perturbations, strengths, metrics, tiles, seeds
and the segmenter of instances. Labels are read after the ranking, by the evaluation alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from reliability import reliability
from rich.console import Console

from cte_dask.evaluation.evaluate_run import evaluate_run
from cte_dask.ranking.rank_target import rank_target
from cte_dask.report.evaluation import evaluation_dict, write_evaluation
from cte_dask.report.terminal.progress import shown_on
from cte_dask.scoring.settings import TargetOptions
from cte_dask.tiles import TileGrid
from cte_dask.volume import open_volume

__all__ = ["FEATURE", "INPUT", "SWEEP", "Plan", "Task", "home_models", "identity", "study"]

FEATURE, INPUT = "dropout:0.2", "gaussian:0.1"
"""The perturbations that the tables are about: chosen before any target was scored."""

SWEEP = {
    "dropout": (0.05, 0.1, 0.2, 0.3, 0.5),
    "gaussian": (0.02, 0.05, 0.1, 0.15, 0.2),
    "brightness": (0.1, 0.2),
    "contrast": (0.7, 0.5),
    "gamma": (0.7, 1.4),
}
"""Kind → strengths that are shown beside them."""

SCHEMA = "cte-paper-target/1"


@dataclass(frozen=True)
class Task:
    """What is segmented.

    Parameters
    ----------
    name
        Of the task and of its bank.
    prefix
        Of the names of its targets.
    labels
        Name of the targets' labels.
    metrics
        What is computed, the first one ranks.
    segmenter
        What makes instances of probabilities; None where there are none.
    """

    name: str
    prefix: str
    labels: str
    metrics: tuple[str, ...]
    segmenter: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """How a target is scored.

    Parameters
    ----------
    perturbations
        The two of the tables first.
    tile
        Extent of a tile (z, y, x).
    tiles
        Only about so many tiles: those of the target's first planes; None for all.
    seed, resamples
        Of everything random; of the bootstrap.
    border
        Voxels along the borders of reference instances that V^Rand leaves out.
    """

    perturbations: tuple[str, ...]
    tile: tuple[int, int, int] = (1, 256, 256)
    tiles: int | None = None
    seed: int = 0
    resamples: int = 1000
    border: int = 0

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides a record; a border only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "border" or value}

    @classmethod
    def full(cls) -> Plan:
        return cls((FEATURE, INPUT), tiles=16)

    @classmethod
    def sweep(cls) -> Plan:
        swept = (f"{kind}:{s:g}" for kind, strengths in SWEEP.items() for s in strengths)
        return cls(tuple(dict.fromkeys((FEATURE, INPUT, *swept))), tiles=16)

    @classmethod
    def bordered(cls) -> Plan:
        return cls((FEATURE, INPUT), tiles=16, border=1)  # as the authors' code has it

    @classmethod
    def quick(cls) -> Plan:
        return cls((FEATURE, INPUT), tiles=12)


def study(
    task: Task,
    plan: Plan,
    bank: Path,
    image: Path,
    *,
    runs: Path,
    out: Path,
    workers: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Rank a bank on a target and evaluate it; a record of the same content is taken as it is.

    Parameters
    ----------
    task, plan
        What and how.
    bank, image
        The bank file, with ``training.json`` beside it, and the target's image, with its record of
        the same name beside it.
    runs
        Folder of the runs.
    out
        Folder of the records.
    workers
        Worker processes; 1 stays in this one.
    tell
        Takes a line of progress.

    Returns
    -------
    dict
        The record, which is also written to ``out/<task>-<target>.json``.
    """
    name = image.stem
    path = out / f"{task.name}-{name}.json"
    wanted = identity(task, plan, bank, image)
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        if known.get("identity") == wanted:
            tell(f"{task.name} on {name}: known")
            return known
    tell(f"{task.name} on {name}")
    folder = runs / task.name / name
    seconds = _rank(task, plan, bank, image, folder, wanted, workers=workers, tell=tell)
    record = _evaluated(task, plan, bank, image, folder, workers=workers, tell=tell)
    # a run that went on after an interruption tells the time of its last part
    record |= {
        "schema": SCHEMA,
        "task": task.name,
        "target_name": name,
        "identity": wanted,
        "recipe": {**asdict(task), **plan.recipe},
        "seconds_of_ranking": round(seconds, 1),
    }
    out.mkdir(parents=True, exist_ok=True)
    _write(path, record)
    written: dict[str, Any] = json.loads(path.read_text())
    return written


def identity(task: Task, plan: Plan, bank: Path, image: Path) -> dict[str, str]:
    """Return hashes of all that decides a record: recipe, bank and its training, target."""
    made = json.loads(image.with_suffix(".json").read_text())
    weights = yaml.safe_load(bank.read_text())["models"]
    models = {name: {**m, "source": None} for name, m in weights.items()}
    if missing := [name for name, m in models.items() if "sha256" not in m]:
        raise SystemExit(f"{bank}: {missing[0]} has no sha256: its results could not be told apart")
    return {
        "recipe": _digest([asdict(task), plan.recipe]),
        "bank": _digest([models, seen_by(bank)]),
        "target": _digest(made),
    }


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def seen_by(bank: Path) -> dict[str, list[str]]:
    """Return model → packs whose labels or images went into it, from the training's record."""
    record = json.loads((bank.parent / "training.json").read_text())
    if "trained_on" in record:  # of the demonstration's bank
        return {name: [pack] for name, pack in record["trained_on"].items()}
    return {
        name: sorted({*model["labels_seen"], *model["images_seen"]})
        for name, model in record.items()
    }


def home_models(bank: Path, image: Path) -> dict[str, str]:
    """Return the models that know the target's domain, and why they are not compared."""
    domain = json.loads(image.with_suffix(".json").read_text())["domain"]
    return {
        name: f"trained on {domain}" for name, packs in seen_by(bank).items() if domain in packs
    }


def _rank(
    task: Task,
    plan: Plan,
    bank: Path,
    image: Path,
    folder: Path,
    wanted: dict[str, str],
    *,
    workers: int,
    tell: Callable[[str], None],
) -> float:
    """Rank, or go on with a run of the same content; return the seconds it took."""
    mark = folder / "identity.json"
    same = mark.exists() and json.loads(mark.read_text()) == wanted
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    _write(mark, wanted)
    own = folder / "bank.yaml"
    own.write_text(_with_segmenter(bank, task))
    started = same and (folder / "run" / "scores.zarr").exists()
    began = time.monotonic()
    rank_target(
        TargetOptions(str(image), roi=f"0:{planes_of(plan, image)},:,:"),
        str(own),
        str(folder / "run"),
        cluster="none" if workers == 1 else "local",
        workers=workers,
        resume=started,
        overwrite=not started,
        progress=shown_on(Console()),
        tell=tell,
        perturbations=plan.perturbations,
        metrics=task.metrics,
        tile=plan.tile,
        seed=plan.seed,
        border=plan.border,
        device="cpu",
    )
    return time.monotonic() - began


def _with_segmenter(bank: Path, task: Task) -> str:
    """Return the bank's text with the task's segmenter, its weights where they lie."""
    document = yaml.safe_load(bank.read_text())
    for model in document["models"].values():
        model["source"] = str((bank.parent / model["source"]).resolve())
        if task.segmenter:
            model["segmenter"] = task.segmenter
    return yaml.safe_dump(document, sort_keys=False)


def planes_of(plan: Plan, image: Path) -> int:
    """Return how many planes of a target are scored: two at least, for an interval."""
    planes, *extent = open_volume(str(image)).shape
    if plan.tiles is None:
        return planes
    a_plane = len(TileGrid((1, *extent), plan.tile))
    return min(planes, max(2, round(plan.tiles / a_plane)))


def _evaluated(
    task: Task,
    plan: Plan,
    bank: Path,
    image: Path,
    folder: Path,
    *,
    workers: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    planes = planes_of(plan, image)
    groups = json.loads(image.with_suffix(".json").read_text()).get("groups")
    evaluation = evaluate_run(
        str(folder / "run"),
        str(image / "labels" / task.labels),
        cluster="none" if workers == 1 else "local",
        workers=workers,
        seed=plan.seed,
        resamples=plan.resamples,
        bootstrap=groups[:planes] if groups else "cell",
        leave_out=home_models(bank, image),
        tell=tell,
    )
    write_evaluation(str(folder / "run"), evaluation)
    record = evaluation_dict(evaluation)
    record["labels"] = task.labels
    record["target"] = {**record["target"], "url": image.name}
    del record["run"]
    seen = seen_by(bank)
    for model in record["models"]:
        model["seen"] = seen[model["name"]]
    names = groups[:planes] if groups else [str(z) for z in range(planes)]
    performances = evaluation.performances
    record["reliability"] = reliability(record["models"], evaluation.tiles, names, performances)
    return record


def _write(path: Path, content: object) -> None:
    """Write under another name first: a record that is there is whole."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    draft.replace(path)
