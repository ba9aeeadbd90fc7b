"""How well the transfer score orders real banks, and how near estimated F1 is to the true one.

    python benchmarks/transfer.py --cache DIR [--target NAME]… [--mitochondria BANK] [--tiles N]

Every nuclei target of the labelled packs is scored by the demonstration's bank, without the model
that was trained on its images; electron microscopy by a bank of `examples/train_bank.py
mitochondria`, both of its sources. Seven perturbations are run at once; what a score would have
said with fewer is read from the same predictions. Labels are read after the ranking. Colour images,
whose nuclei are dark, are taken as their inverted mean. Tile scores are kept in the cache. Writes
``benchmarks/results/transfer.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cte_dask.demo import bank_path
from cte_dask.evaluation.accuracy import f1
from cte_dask.models import load_bank
from cte_dask.models.bank import ModelBank
from cte_dask.ranking.bootstrap import interval, median
from cte_dask.ranking.rank import rank
from cte_dask.results.block_codec import encoded_votes, votes_in
from cte_dask.scoring.block_scores import joined
from cte_dask.scoring.experiment import Experiment, versions
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles, score_block
from cte_dask.volume import open_volume

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
RESULT = REPOSITORY / "benchmarks" / "results" / "transfer"
SEVEN = ("dropout:0.2", "gaussian:0.1", "gamma:1.4", "rotate", "mirror", "zoom:1.25", "zoom:0.8")
NUCLEI = (
    "n_dsb_a256_mixed", "n_dsb_b256_fibro", "n_dsb_c256_clump", "n_dsb_e360_large",
    "n_dsb_d1_u2os_sharp", "n_dsb_d2_blurry", "n_dsb_d3_highmag", "n_mnf_rpe1", "n_mnf_u2os",
    "n_culture_20x", "n_dsb_he", "n_dsb_brightfield", "n_gbm_he", "n_kmms_he",
)  # fmt: skip
MITOCHONDRIA = ("m_epfl_10nm", "m_vnc_9nm")
APART = 0.05
"""Difference of F1 above which an order counts."""
DRAWS = 40
QUALITIES = "tau", "pairs", "loss"

Floats = NDArray[np.float64]


def main() -> None:
    options = _options()
    os.nice(options.nice)
    options.cache.mkdir(parents=True, exist_ok=True)
    home = json.loads((bank_path().parent / "training.json").read_text())["trained_on"]
    wanted = [(name, bank_path(), home) for name in NUCLEI]
    if options.mitochondria is not None:
        wanted += [(name, options.mitochondria, {}) for name in MITOCHONDRIA]
    records = []
    for name, bank, trained_on in wanted:
        if options.target is None or name in options.target:
            records.append(_record(name, bank, trained_on, options))
            _write(records)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of the tile scores")
    parser.add_argument("--target", action="append")
    parser.add_argument("--mitochondria", type=Path, help="bank.yaml of mitochondria networks")
    parser.add_argument("--tiles", type=int, default=12)
    parser.add_argument("--nice", type=int, default=10)
    return parser.parse_args()


def _record(
    name: str, bank_file: Path, trained_on: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    kept = options.cache / f"{name}-{options.tiles}.pickle"
    if not kept.exists():
        print(name, flush=True)
        bank = load_bank(str(bank_file))
        models = tuple(m for m in bank.models if trained_on.get(m.name) != name)
        measured = _measured(name, ModelBank(models), options.tiles)
        kept.write_bytes(pickle.dumps(measured))
    data, truth = pickle.loads(kept.read_bytes())
    return {"target": name, **_judged(data, truth), "banks": _smaller(data, truth)}


def _measured(name: str, bank: ModelBank, tiles: int) -> tuple[xr.Dataset, dict[str, Floats]]:
    """Score a target and measure the F1 of every model on every tile."""
    planes, labels = _planes(name, tiles)
    volume = open_volume(planes, axes="zyx")
    experiment = resolve(
        volume, bank, perturbations=SEVEN, tile=(1, 256, 256), rank_by="transfer", seed=0
    )
    return _scored(experiment), _true_f1(experiment, labels)


def _planes(name: str, tiles: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return as many test images as make about so many tiles, spread over those there are."""
    pack = np.load(DATA / f"{name}.npz")
    test = np.flatnonzero(pack["split"] == "test")
    raw, labels = pack["raw"], pack["label"]
    extent = raw.shape[1:3]
    an_image = max(1, round(extent[0] / 256)) * max(1, round(extent[1] / 256))
    number = min(len(test), max(1, -(-tiles // an_image)))
    chosen = test[np.linspace(0, len(test) - 1, number).round().astype(int)]
    images = raw[chosen].astype(np.float32)
    gray = 255 - images.mean(axis=3) if images.ndim == 4 else images
    return gray, labels[chosen]


def _scored(experiment: Experiment) -> xr.Dataset:
    from cte_dask.consistency.vote_patterns import joined as join_votes
    from cte_dask.results.dataset import dataset_of, told_attributes
    from cte_dask.results.layout import layout_of

    indices = range(len(experiment.blocks))
    blocks = [score_block(experiment, i) for i in indices]
    data = dataset_of(layout_of(experiment), joined([b.tiles for b in blocks]), indices)
    votes = join_votes([b.votes for b in blocks if b.votes is not None])
    data["votes"] = ("tile", "vote"), encoded_votes(votes)
    data.attrs |= told_attributes(experiment)
    return data


def _true_f1(experiment: Experiment, labels: NDArray[Any]) -> dict[str, Floats]:
    """Return F1 by model and tile; NaN where neither labels nor prediction have foreground."""
    found: dict[str, dict[int, float]] = {c.name: {} for c in experiment.candidates}
    for index in range(len(experiment.blocks)):
        for name, tile, (reference,) in predict_tiles(experiment, index, ()):
            box = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
            truth = labels[box]
            found[name][tile.index] = f1(reference > 0.5, truth) if truth.any() else np.nan
    return {n: np.array([v[t] for t in sorted(v)]) for n, v in found.items()}


def _judged(data: xr.Dataset, truth: dict[str, Floats]) -> dict[str, Any]:
    """Return what each score says of a target, beside the truth."""
    scores, estimates, warning = _scores(data)
    names = [str(n) for n in data.model.to_numpy()]
    true = np.array([median(truth[n]) for n in names])
    return {
        "models": {n: round(float(v), 4) for n, v in zip(names, true, strict=True)},
        "estimated_f1": {n: round(float(v), 4) for n, v in zip(names, estimates, strict=True)},
        "warning": warning,
        "best_f1": float(true.max()),
        "scores": {name: _quality(values, true) for name, values in scores.items()},
        "pick_estimate_error": float(
            estimates[np.nanargmax(scores["transfer"])] - true[np.nanargmax(scores["transfer"])]
        ),
        "estimate_error": float(np.nanmean(np.abs(estimates - true))),
    }


def _scores(data: xr.Dataset) -> tuple[dict[str, Floats], Floats, str]:
    """Return keys that rank by each score (flagged models below all), and estimated F1."""
    ranking = rank(data, rule="transfer")
    names = [str(n) for n in data.model.to_numpy()]
    by_name = {m.name: m for m in ranking.models}
    flagged = np.array([by_name[n].degenerate for n in names])

    def keyed(values: Sequence[float]) -> Floats:
        return np.nan_to_num(np.asarray(values, np.float64), nan=-1.0) - 2.0 * flagged

    verdicts = [by_name[n].verdict for n in names]
    f1s = np.array([v.estimated_f1.value for v in verdicts if v is not None])
    single = {p: [by_name[n].scores[f"nhd@{p}"].cte for n in names] for p in SEVEN}
    several = np.array([v.consistency.value for v in verdicts if v is not None])
    small = np.array([_over(data, ("mirror", "zoom:0.8"))[n] for n in names])
    scores = {
        "transfer": keyed(f1s * np.array(single["dropout:0.2"])),
        "transfer, mirror": keyed(f1s * np.array(single["mirror"])),
        "transfer, seven": keyed(f1s * several),
        "estimated F1": keyed(f1s.tolist()),
        "CTE, seven": keyed(several.tolist()),
        "CTE, mirror and zoom": keyed(small.tolist()),
        "agreement": keyed([v.agreement for v in verdicts if v is not None]),
        "dropout": keyed(single["dropout:0.2"]),
        "noise": keyed(single["gaussian:0.1"]),
    }
    return scores, f1s, ranking.warning


def _over(data: xr.Dataset, perturbations: Sequence[str]) -> dict[str, float]:
    mean = data.nhd.sel(perturbation=list(perturbations)).mean("perturbation")
    return {str(n): median(mean.sel(model=n).to_numpy()) for n in data.model.to_numpy()}


def _quality(keys: Floats, true: Floats) -> dict[str, float]:
    """Return Kendall's τ-b, the share of pairs apart that are in order, and F1 lost by the pick."""
    a, b = np.sign(keys[:, None] - keys[None]), np.sign(true[:, None] - true[None])
    most = float(np.abs(a).sum() * np.abs(b).sum())
    pairs = [(i, j) for i, j in combinations(range(len(true)), 2) if abs(true[i] - true[j]) > APART]
    right = [0.5 + 0.5 * np.sign((keys[i] - keys[j]) * (true[i] - true[j])) for i, j in pairs]
    return {
        "tau": float((a * b).sum()) / most**0.5 if most else float("nan"),
        "pairs": float(np.mean(right)) if right else float("nan"),
        "loss": float(true.max() - true[int(np.argmax(keys))]),
    }


def _smaller(data: xr.Dataset, truth: dict[str, Floats]) -> dict[str, Any]:
    """Return the mean quality of random smaller banks, by their size."""
    rng, models = np.random.default_rng(0), data.sizes["model"]
    found: dict[str, Any] = {}
    for size in (3, 5, 8):
        if size >= models:
            continue
        drawn = [np.sort(rng.permutation(models)[:size]) for _ in range(DRAWS)]
        runs = [_judged(_part(data, chosen), truth)["scores"] for chosen in drawn]
        found[str(size)] = {
            name: {
                k: float(np.nanmean([r[name][k] for r in runs])) for k in ("tau", "pairs", "loss")
            }
            for name in runs[0]
        }
    return found


def _part(data: xr.Dataset, chosen: NDArray[np.int64]) -> xr.Dataset:
    """Return the tile scores of some models of a bank, with the votes of these alone."""
    from dataclasses import replace

    from cte_dask.consistency.vote_patterns import as_words

    tables, part = votes_in(data), data.isel(model=chosen)
    votes = as_words(tables.votes()[:, chosen])
    fewer = replace(tables, patterns=votes, voted=tables.voted[:, chosen])
    return part.drop_vars("votes").assign(votes=(("tile", "vote"), encoded_votes(fewer)))


def _write(records: Sequence[dict[str, Any]]) -> None:
    names = list(records[0]["scores"])
    means = {n: _means(records, lambda r, n=n: r["scores"][n]) for n in names}
    summary = {
        "targets": len(records),
        "scores": means,
        "gain_in_tau": _gain(records),
        "estimate_error": _mean_of([r["estimate_error"] for r in records]),
        "pick_estimate_error": _mean_of([abs(r["pick_estimate_error"]) for r in records]),
        "banks": {size: _means_of_banks(records, size) for size in ("3", "5", "8")},
        "none_fits": {r["target"]: [round(r["best_f1"], 2), bool(r["warning"])] for r in records},
    }
    content = {"summary": summary, "records": list(records), "versions": versions()}
    RESULT.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(_tables(summary, records))


def _means_of_banks(records: Sequence[dict[str, Any]], size: str) -> dict[str, Any]:
    banks = [r["banks"][size] for r in records if size in r["banks"]]
    names = banks[0] if banks else ()
    return {n: {k: float(np.nanmean([b[n][k] for b in banks])) for k in QUALITIES} for n in names}


def _means(records: Sequence[dict[str, Any]], of: Callable[..., Any]) -> dict[str, Any]:
    return {k: _mean_of([of(r)[k] for r in records]) for k in QUALITIES}


def _mean_of(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over targets, with the interval of a bootstrap over them."""
    numbers = np.array(values, np.float64)
    rng = np.random.default_rng(0)
    drawn = numbers[rng.integers(len(numbers), size=(2000, len(numbers)))]
    with np.errstate(all="ignore"):
        low, high = interval(np.nanmean(drawn, axis=1))
    return {"mean": float(np.nanmean(numbers)), "low": low, "high": high}


def _gain(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    tau = {n: np.array([r["scores"][n]["tau"] for r in records]) for n in records[0]["scores"]}
    better = max(("dropout", "noise"), key=lambda n: np.nanmean(tau[n]))
    return {"over": better, **_mean_of(tau["transfer"] - tau[better])}  # type: ignore[dict-item]


def _tables(summary: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    def shown(value: dict[str, float]) -> str:
        return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"

    lines = [
        f"# Transfer score over {summary['targets']} targets\n",
        "Means over targets with the 95 % interval of a bootstrap over them. Pairs: models more "
        f"than {APART} of F1 apart that are in order. Loss: F1 of the best less F1 of the pick.\n",
        "| score | Kendall's τ | pairs | loss |",
        "|---|---|---|---|",
    ]
    for name, quality in summary["scores"].items():
        cells = " | ".join(shown(quality[k]) for k in QUALITIES)
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        f"Gain in τ over {summary['gain_in_tau']['over']} alone: {shown(summary['gain_in_tau'])}. "
        f"Estimated against true F1: {shown(summary['estimate_error'])} on average, "
        f"{shown(summary['pick_estimate_error'])} of the first pick.\n",
        "| target | models | true F1 | best | pick | τ | pairs | est. error | none fits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        q, values = r["scores"]["transfer"], list(r["models"].values())
        pick = r["best_f1"] - q["loss"]
        lines.append(
            f"| {r['target']} | {len(values)} | {min(values):.2f}–{max(values):.2f} | "
            f"{r['best_f1']:.2f} | {pick:.2f} | {q['tau']:.2f} | {q['pairs']:.2f} | "
            f"{r['estimate_error']:.3f} | {'said' if r['warning'] else '–'} |"
        )
    lines += ["", "Random smaller banks, means over targets (τ / pairs / loss):\n"]
    sizes = [size for size, bank in summary["banks"].items() if bank]
    heading = " | ".join(f"{size} models" for size in sizes)
    lines += [f"| score | {heading} |", "|---" * (len(sizes) + 1) + "|"]
    for name in summary["scores"]:
        cells = [summary["banks"][s][name] for s in sizes]
        told = " | ".join(f"{c['tau']:.2f} / {c['pairs']:.2f} / {c['loss']:.3f}" for c in cells)
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
