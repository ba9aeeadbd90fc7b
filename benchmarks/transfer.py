"""How well the transfer score orders real banks, and how near estimated F1 is to the true one.

    python benchmarks/transfer.py --cache DIR --zoo DIR [--task NAME]… [--target NAME]… [--tiles N]

``--zoo`` is the cache of ``benchmarks/paper/train.py``. A target is scored by a bank without the
models that have seen its labels or images. Four perturbations are run at once, NHD and V^Rand of
each; what a score would have said with fewer is read from the same predictions. Labels are read
after the ranking. Colour images, whose nuclei are dark, are taken as their inverted mean. Tile
scores are kept in the cache. Writes ``benchmarks/results/transfer.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cte_dask.consistency.vote_patterns import as_words
from cte_dask.consistency.vote_patterns import joined as join_votes
from cte_dask.evaluation.comparators.ccfv import ccfv
from cte_dask.evaluation.evaluate_block import BlockTask, evaluate_block
from cte_dask.evaluation.result import MEASURES
from cte_dask.models import load_bank
from cte_dask.models.bank import ModelBank
from cte_dask.models.output import Segmentation
from cte_dask.ranking.bootstrap import median
from cte_dask.ranking.rank import Ranking, rank
from cte_dask.ranking.transfer import ModelVerdict
from cte_dask.results.block_codec import encoded_votes, votes_in
from cte_dask.results.dataset import dataset_of, told_attributes
from cte_dask.results.layout import layout_of
from cte_dask.scoring.block_scores import joined
from cte_dask.scoring.experiment import Experiment, versions
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.volume import open_volume

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "examples"), str(REPOSITORY / "benchmarks")]

from training.packs import gray  # noqa: E402 (found by the line above)
from transfer_tables import write  # noqa: E402

DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
RESULT = REPOSITORY / "benchmarks" / "results" / "transfer"
FOUR = ("dropout:0.2", "gaussian:0.1", "mirror", "zoom:0.8")
FLUORESCENCE = (
    "n_dsb_a256_mixed", "n_dsb_b256_fibro", "n_dsb_c256_clump", "n_dsb_e360_large",
    "n_dsb_d1_u2os_sharp", "n_dsb_d2_blurry", "n_dsb_d3_highmag", "n_mnf_rpe1", "n_mnf_u2os",
    "n_culture_20x",
)  # fmt: skip
STAINED = ("n_dsb_he", "n_dsb_brightfield", "n_gbm_he", "n_kmms_he")
WITHOUT_INSTANCES = ("n_culture_20x",)
MITOCHONDRIA = ("m_epfl_10nm", "m_vnc_9nm")
APART = 0.05
"""Difference of F1 above which an order counts."""
DRAWS = 20
WATERSHED = Segmentation(name="distance_watershed")
DEFAULT = "dropout:0.2"
"""What ranks a bank of grey boxes."""
QUALITIES = "tau", "pairs", "loss"
FEATURED = 12
"""Tiles whose features CCFV compares."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """A bank, and the targets it is ranked on."""

    name: str
    targets: tuple[str, ...]
    instances: bool
    ccfv: bool = False


TASKS = (
    Task("modalities", (*FLUORESCENCE, *STAINED), instances=True, ccfv=True),
    Task("nuclei", FLUORESCENCE, instances=False),
    Task("mitochondria", MITOCHONDRIA, instances=False),
)


@dataclass(frozen=True)
class Measured:
    """What was measured of a bank on a target.

    Parameters
    ----------
    scores
        The tile scores, with the tables of votes and the pairs' precisions.
    truth
        By measure, float64 (model, tile): F1, mAP, and what needs no perturbation.
    ccfv
        Of each model; empty where it was not asked for.
    """

    scores: xr.Dataset
    truth: dict[str, Floats]
    ccfv: Floats


def main() -> None:
    options = _options()
    os.nice(options.nice)
    options.cache.mkdir(parents=True, exist_ok=True)
    records = []
    for task in TASKS:
        if options.task is not None and task.name not in options.task:
            continue
        for target in task.targets:
            if options.target is None or target in options.target:
                records += _records(task, target, options)
                write(RESULT, records, versions(), apart=APART)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of the tile scores")
    parser.add_argument("--zoo", type=Path, required=True, help="cache of paper/train.py")
    parser.add_argument("--task", action="append", choices=[t.name for t in TASKS])
    parser.add_argument("--target", action="append")
    parser.add_argument("--tiles", type=int, default=12)
    parser.add_argument("--nice", type=int, default=10)
    return parser.parse_args()


def _records(task: Task, target: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is said of a target as foreground and, where objects are labelled, as those."""
    stored = options.cache / f"{task.name}-{target}-{options.tiles}.pickle"
    if not stored.exists():
        print(task.name, target, flush=True)
        measured = _measured(task, target, _bank(task, target, options.zoo), options.tiles)
        stored.write_bytes(pickle.dumps((measured.scores, measured.truth, measured.ccfv)))
    measured = Measured(*pickle.loads(stored.read_bytes()))
    about = {"task": task.name, "target": target}
    records = [{**about, "of": "foreground", **_judged(measured, "f1")}]
    records[0]["banks"] = _smaller(measured)
    if task.instances and target not in WITHOUT_INSTANCES:
        records.append({**about, "of": "instances", **_judged(measured, "map")})
    return records


def _bank(task: Task, target: str, zoo: Path) -> ModelBank:
    """Return a bank without what has seen a target, with a segmenter if it makes instances."""
    folder = zoo / task.name
    seen = json.loads((folder / "training.json").read_text())
    models = [
        m
        for m in load_bank(str(folder / "bank.yaml")).models
        if target not in {*seen[m.name]["labels_seen"], *seen[m.name]["images_seen"]}
    ]
    if task.instances:
        models = [m.model_copy(update={"segmenter": WATERSHED}) for m in models]
    return ModelBank(tuple(models))


def _measured(task: Task, target: str, bank: ModelBank, tiles: int) -> Measured:
    """Score a target, and measure every model on every tile against the labels."""
    planes, labels = _planes(target, tiles)
    experiment = resolve(
        open_volume(planes, axes="zyx"),
        bank,
        perturbations=FOUR,
        metrics=("nhd", *(["vrand"] if task.instances else [])),
        tile=(1, 256, 256),
        rank_by="transfer",
        seed=0,
    )
    scores = _scored(experiment)
    truth, features = _truth(experiment, labels, features=task.ccfv)
    return Measured(scores, truth, features)


def _planes(name: str, tiles: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return as many test images as make about so many tiles, spread over those there are."""
    pack = np.load(DATA / f"{name}.npz")
    test = np.flatnonzero(pack["split"] == "test")
    raw, labels = pack["raw"], pack["label"]
    extent = raw.shape[1:3]
    an_image = max(1, round(extent[0] / 256)) * max(1, round(extent[1] / 256))
    number = min(len(test), max(1, -(-tiles // an_image)))
    chosen = test[np.linspace(0, len(test) - 1, number).round().astype(int)]
    return np.asarray(gray(raw[chosen]), np.float32), labels[chosen].astype(np.int32)


def _scored(experiment: Experiment) -> xr.Dataset:
    indices = range(len(experiment.blocks))
    blocks = [score_block(experiment, i) for i in indices]
    data = dataset_of(layout_of(experiment), joined([b.tiles for b in blocks]), indices)
    votes = join_votes([b.votes for b in blocks if b.votes is not None])
    data["votes"] = ("tile", "vote"), encoded_votes(votes)
    if experiment.instances:
        rows = np.concatenate([b.precision for b in blocks if b.precision is not None], axis=-1)
        data["precision"] = ("pair", "tile"), rows
    data.attrs |= told_attributes(experiment)
    return data


def _truth(
    experiment: Experiment, labels: NDArray[Any], *, features: bool
) -> tuple[dict[str, Floats], Floats]:
    """Return each measure by model and tile, NaN on tiles without labels, and CCFV."""
    volume, names = open_volume(labels, axes="zyx"), [c.name for c in experiment.candidates]
    labelled, evaluations = 0, []
    for index in range(len(experiment.blocks)):
        tiles = experiment.blocks.block_at(index).tiles
        boxes = [tuple(map(slice, t.start, t.stop)) for t in tiles]
        some = [t.index for t, box in zip(tiles, boxes, strict=True) if labels[box].any()]
        featured = frozenset(some[: max(0, FEATURED - labelled)] if features else ())
        labelled += len(some)
        scored = np.ones((len(names), len(tiles)), bool)
        evaluations.append(evaluate_block(experiment, volume, BlockTask(index, scored, featured)))
    values = np.concatenate([e.values for e in evaluations], axis=2)
    values[:, :, np.concatenate([e.labelled for e in evaluations]) == 0] = np.nan
    features_of = {key: layers for e in evaluations for key, layers in e.features.items()}
    keys = sorted(features_of)
    by_model = [[features_of[m, tile] for m, tile in keys if m == n] for n in names]
    variety = [
        ccfv(list(zip(*tiles, strict=True))) if len(tiles) > 1 else np.nan for tiles in by_model
    ]
    return {m: values[:, i] for i, m in enumerate(MEASURES)}, np.array(variety)


def _judged(measured: Measured, measure: str) -> dict[str, Any]:
    """Return what each score says of a target, beside the truth."""
    metric = "nhd" if measure == "f1" else "vrand"
    ranking = _ranking(measured.scores.sel(perturbation=[DEFAULT]), metric)
    scores, estimates = _scores(measured, ranking, metric)
    names = _names(measured.scores)
    true = np.array([median(row) for row in measured.truth[measure]])
    pick = int(np.nanargmax(scores["transfer"]))
    return {
        "models": {n: round(float(v), 4) for n, v in zip(names, true, strict=True)},
        "estimated": {n: round(float(v), 4) for n, v in zip(names, estimates, strict=True)},
        "warning": ranking.warning,
        "best": float(np.nanmax(true)),
        "scores": {name: _quality(values, true) for name, values in scores.items()},
        "pick_estimate_error": float(estimates[pick] - true[pick]),
        "estimate_error": float(np.nanmean(np.abs(estimates - true))),
    }


def _names(data: xr.Dataset) -> list[str]:
    return [str(n) for n in data.model.to_numpy()]


def _ranking(scores: xr.Dataset, metric: str) -> Ranking:
    """Rank by the transfer score of a metric over the perturbations that are there."""
    primary = f"{metric}@{scores.perturbation.to_numpy()[0]}"
    data = scores.assign_attrs(primary=primary, metrics=[metric])
    return rank(data.drop_vars("precision", errors="ignore") if metric == "nhd" else data)


def _verdicts(ranking: Ranking, names: Sequence[str]) -> list[ModelVerdict]:
    by_name = {m.name: m.verdict for m in ranking.models if m.verdict is not None}
    return [by_name[n] for n in names]


def _scores(measured: Measured, ranking: Ranking, metric: str) -> tuple[dict[str, Floats], Floats]:
    """Return keys that rank by each score, flagged models below all, and what was estimated."""
    data, names = measured.scores, _names(measured.scores)
    verdicts = _verdicts(ranking, names)
    witness = [v.precision if metric == "vrand" else v.estimated_f1 for v in verdicts]

    def transfer(perturbations: Sequence[str]) -> list[float]:
        other = _ranking(data.sel(perturbation=list(perturbations)), metric)
        return [v.transfer.value for v in _verdicts(other, names)]

    def cte(perturbations: Sequence[str]) -> list[float]:
        rows = data[metric].sel(perturbation=list(perturbations)).mean("perturbation").to_numpy()
        return [median(row) for row in rows]

    run = list(map(str, data.perturbation.to_numpy()))
    keys = {
        "transfer": [v.transfer.value for v in verdicts],
        "transfer, mirror": transfer(["mirror"]),
        "transfer, all run": transfer(run),
        "what is estimated": [e.value for e in witness],
        "CTE, all run": cte(run),
        "CTE, mirror and zoom": cte(["mirror", "zoom:0.8"]),
        "overlap with the others": [v.agreement for v in verdicts],
        "dropout": cte([DEFAULT]),
        "noise": cte(["gaussian:0.1"]),
        "entropy": [-median(row) for row in measured.truth["entropy"]],
        "confidence": [median(row) for row in measured.truth["confidence"]],
    }
    if np.isfinite(measured.ccfv).any():
        keys["CCFV (uses labels)"] = measured.ccfv.tolist()
    degenerate = {m.name for m in ranking.models if m.degenerate}
    flagged = np.array([n in degenerate for n in names])
    ordered = {n: np.nan_to_num(np.asarray(v), nan=-1e3) - 1e4 * flagged for n, v in keys.items()}
    return ordered, np.array([e.value for e in witness])


def _quality(keys: Floats, true: Floats) -> dict[str, float]:
    """Return Kendall's τ-b, the share of pairs apart that are in order, and F1 lost by the pick."""
    a, b = np.sign(keys[:, None] - keys[None]), np.sign(true[:, None] - true[None])
    most = float(np.abs(a).sum() * np.abs(b).sum())
    apart = [(i, j) for i, j in combinations(range(len(true)), 2) if abs(true[i] - true[j]) > APART]
    right = [0.5 + 0.5 * np.sign((keys[i] - keys[j]) * (true[i] - true[j])) for i, j in apart]
    return {
        "tau": float((a * b).sum()) / most**0.5 if most else float("nan"),
        "pairs": float(np.mean(right)) if right else float("nan"),
        "loss": float(true.max() - true[int(np.argmax(keys))]),
    }


def _smaller(measured: Measured) -> dict[str, Any]:
    """Return the mean quality of random smaller banks, by their size."""
    rng, models = np.random.default_rng(0), measured.scores.sizes["model"]
    means: dict[str, Any] = {}
    for size in (3, 5, 8):
        if size >= models:
            continue
        drawn = [np.sort(rng.permutation(models)[:size]) for _ in range(DRAWS)]
        draws = [_judged(_fewer(measured, chosen), "f1")["scores"] for chosen in drawn]
        means[str(size)] = {
            name: {k: float(np.nanmean([d[name][k] for d in draws])) for k in QUALITIES}
            for name in draws[0]
        }
    return means


def _fewer(measured: Measured, chosen: NDArray[np.int64]) -> Measured:
    """Return some models of a bank, with the votes of these alone."""
    tables = votes_in(measured.scores)
    votes = as_words(tables.votes()[:, chosen])
    fewer = replace(tables, patterns=votes, voted=tables.voted[:, chosen])
    scores = measured.scores.drop_vars(["votes", "precision"], errors="ignore")
    scores = scores.isel(model=chosen).assign(votes=(("tile", "vote"), encoded_votes(fewer)))
    truth = {name: rows[chosen] for name, rows in measured.truth.items()}
    return Measured(scores, truth, measured.ccfv[chosen])


if __name__ == "__main__":
    main()
