"""What a few labelled tiles are worth: those that ``cte suggest`` chooses beside random ones.

    python benchmarks/suggest.py --cache DIR

DIR is the cache of ``benchmarks/transfer.py``: tile scores of real targets, and the true F1 of
every model on every tile. A tile is labelled by looking its true F1 up. For 1, 2, 3 and 5 tiles,
chosen by `cte_dask.ranking.suggest` and at random (100 draws), the estimates are corrected as
``cte rank --labels`` does. Measured are, of pairs of models more than 0.05 of true F1 apart, those
in order and those decided, rightly and wrongly (one model is ahead in 95 % of the resamples of
regions and labelled tiles); and how far the corrected F1 is off. The settings were fixed
beforehand. Writes ``benchmarks/results/suggest.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cte_dask.ranking.ballot import ballot_of
from cte_dask.ranking.bootstrap import Resamples, Sampled, cells, draw, interval, median, resample
from cte_dask.ranking.correction import Truth
from cte_dask.ranking.latent_truth import fit_truth
from cte_dask.ranking.rank import rank
from cte_dask.ranking.suggest import tiles_to_label
from cte_dask.results.block_codec import votes_in
from cte_dask.scoring.experiment import versions

RESULT = Path(__file__).resolve().parent / "results" / "suggest"
NUMBERS = 1, 2, 3, 5
DRAWS = 100
APART = 0.05
"""Difference of F1 above which an order counts."""
CLEAR = 0.95
"""Share of the resamples in which one model is ahead, from which on a pair is decided."""
MEASURES = "in_order", "decided", "wrong", "error"
WAYS = "chosen", "random", "random, labels alone"

Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of the tile scores")
    parser.add_argument("--nice", type=int, default=10)
    options = parser.parse_args()
    os.nice(options.nice)
    records = []
    for path in sorted(options.cache.glob("*.pickle")):
        data, truth, _ = pickle.loads(path.read_bytes())
        print(path.stem, flush=True)
        # foreground under the default perturbation: what ranks such a bank
        data = data.sel(perturbation=["dropout:0.2"]).drop_vars("precision", errors="ignore")
        records.append({"target": path.stem.rpartition("-")[0], **_record(data, truth)})
    summary = _summary(records)
    content = {"summary": summary, "records": records, "versions": versions()}
    RESULT.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(_tables(summary, records))


def _record(data: xr.Dataset, truth: Mapping[str, Floats]) -> dict[str, Any]:
    """Return what labelled tiles tell of a target."""
    names = [str(n) for n in data.model.to_numpy()]
    true = truth["f1"]
    ranking = rank(data, rule="transfer")
    leading = [m.name for m in ranking.models if m.rank is not None and not m.degenerate]
    flagged = np.array([n not in leading for n in names])
    ballot = ballot_of(votes_in(data))
    estimates = fit_truth(ballot, ~flagged).f1(ballot)
    draws = resample(cells(np.stack([data[a].to_numpy() for a in "zyx"], axis=1)), seed=0)
    target = _Target(true, estimates, draws)
    place = {int(t): i for i, t in enumerate(data.tile.to_numpy())}
    chosen = [place[t] for t, _ in tiles_to_label(data, max(NUMBERS), leading=leading)]
    rng = np.random.default_rng(0)
    number = data.sizes["tile"]
    return {
        "models": len(names),
        "tiles": number,
        "apart": len(target.pairs),
        "without": target.measured([]),
        **{
            str(k): {
                "chosen": target.measured(chosen[:k]),
                **_random(target, [rng.permutation(number)[:k] for _ in range(DRAWS)]),
            }
            for k in NUMBERS
            if k < number
        },
    }


def _random(target: _Target, drawn: Sequence[NDArray[np.int64]]) -> dict[str, dict[str, float]]:
    corrected = [target.measured(tiles) for tiles in drawn]
    alone = [target.measured(tiles, alone=True) for tiles in drawn]
    return {
        name: {m: _mean([r[m] for r in found]) for m in MEASURES}
        for name, found in zip(WAYS[1:], (corrected, alone), strict=True)
    }


class _Target:
    """A target of which every tile's true F1 is known, float64 (model, tile)."""

    def __init__(self, true: Floats, estimates: Floats, draws: Resamples) -> None:
        self.true, self.estimates, self.draws = true, estimates, draws
        self.typical = np.array([median(row) for row in true])
        self.pairs = [
            (i, j)
            for i, j in combinations(range(len(true)), 2)
            if abs(self.typical[i] - self.typical[j]) > APART
        ]

    def measured(self, tiles: Sequence[int], *, alone: bool = False) -> dict[str, float]:
        """Return the `MEASURES` where some tiles are labelled; by what they show alone if so."""
        place = np.array(tiles, np.int64)
        estimates = np.full_like(self.estimates, np.nan) if alone else self.estimates
        known = Truth(self.true[:, place], place, draw(len(place), seed=1))
        sampled = [known.corrected(m, row, self.draws) for m, row in enumerate(estimates)]
        off = np.array([s.value for s in sampled]) - self.typical
        ahead = [self._ahead(sampled[i], sampled[j], i, j) for i, j in self.pairs]
        order = [o for o, _ in ahead]
        share = np.array([s for _, s in ahead])
        return {
            "in_order": _mean(order),
            "decided": _mean(share >= CLEAR),
            "wrong": _mean(share <= 1 - CLEAR),
            "error": _mean(np.abs(off)),
        }

    def _ahead(self, a: Sampled, b: Sampled, i: int, j: int) -> tuple[float, float]:
        """Return whether the truly better model is ahead, and in which share of the resamples."""
        sign = np.sign(self.typical[i] - self.typical[j])
        values = np.nan_to_num([a.value, b.value], nan=-1.0)
        resampled = np.nan_to_num(np.stack([a.resampled, b.resampled]), nan=-1.0)
        order = (1 + sign * np.sign(values[0] - values[1])) / 2  # equal ones count half
        share = ((1 + sign * np.sign(resampled[0] - resampled[1])) / 2).mean()
        return float(order), float(share)


def _mean(values: Any) -> float:
    numbers = np.asarray(values, np.float64)
    valid = numbers[~np.isnan(numbers)]
    return float(valid.mean()) if len(valid) else float("nan")


def _over_targets(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over targets, with the interval of a bootstrap over them."""
    numbers = np.array([v for v in values if not np.isnan(v)])
    drawn = numbers[np.random.default_rng(0).integers(len(numbers), size=(2000, len(numbers)))]
    low, high = interval(drawn.mean(axis=1))
    return {"mean": float(numbers.mean()), "low": low, "high": high}


def _summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over the targets that have two models apart."""
    told = [r for r in records if r["apart"]]
    summary: dict[str, Any] = {
        "targets": len(told),
        "without": {m: _over_targets([r["without"][m] for r in told]) for m in MEASURES},
    }
    for k in map(str, NUMBERS):
        some = [r[k] for r in told if k in r]
        summary[k] = {
            w: {m: _over_targets([r[w][m] for r in some]) for m in MEASURES} for w in WAYS
        }
        gain = {m: [r["chosen"][m] - r["random"][m] for r in some] for m in MEASURES}
        summary[k]["chosen less random"] = {m: _over_targets(v) for m, v in gain.items()}
    return summary


def _tables(summary: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"# A few labelled tiles, over {summary['targets']} targets\n",
        "Means over targets with the 95 % interval of a bootstrap over them. Of pairs of models "
        f"more than {APART} of F1 apart: in order; decided rightly and wrongly (one is ahead in "
        f"{CLEAR:.0%} of the resamples). Error: |corrected − true F1|, mean over models. Random: "
        f"{DRAWS} draws.\n",
        "| tiles | which | in order | decided | wrongly | error of F1 |",
        "|---|---|---|---|---|---|",
        _row("0", "–", summary["without"]),
    ]
    for k in map(str, NUMBERS):
        lines += [_row(k, way, found) for way, found in summary[k].items()]
    lines += [
        "",
        "| target | tiles | pairs apart | in order without | five chosen | five random "
        "| decided by five chosen | by five random |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        five = r.get("5")
        if not r["apart"] or five is None:
            continue
        cells = [r["without"]["in_order"], five["chosen"]["in_order"], five["random"]["in_order"]]
        cells += [five["chosen"]["decided"], five["random"]["decided"]]
        shown = " | ".join(f"{c:.2f}" for c in cells)
        lines.append(f"| {r['target']} | {r['tiles']} | {r['apart']} | {shown} |")
    return "\n".join(lines) + "\n"


def _row(number: str, which: str, measures: dict[str, dict[str, float]]) -> str:
    values = (f"{v['mean']:.2f} [{v['low']:.2f}, {v['high']:.2f}]" for v in measures.values())
    return f"| {number} | {which} | {' | '.join(values)} |"


if __name__ == "__main__":
    main()
