"""Tables of the zoos: Kendall's τ of each family of evidence and of all of them combined.

The rule of the combined rank was fixed beforehand, on none of these targets; the halves are shown
nevertheless: every second target of a task (in the order of the records) is of the half "a", the
others of "b", so that whoever changes the rule can fix it on "a" and report on "b".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study import FEATURE, INPUT

from cte_dask.consistency.score_names import ScoreName
from cte_dask.ranking.combination import percentiles

__all__ = ["FAMILIES", "taus_of", "write_zoo_tables"]

FAMILIES = {
    "dropout": str(ScoreName("nhd", FEATURE)),
    "noise": str(ScoreName("nhd", INPUT)),
    "rotate": "nhd@rotate",
    "mirror": "nhd@mirror",
    "zoom": "nhd@zoom:1.125",
    "agreement": "agreement@none",
    "consensus": "consensus@none",
}
PAPER = ("dropout", "noise")
SUBBANK, DRAWS = 12, 400

Record = dict[str, Any]
Floats = NDArray[np.float64]


def taus_of(record: Record, chosen: NDArray[np.int64] | None = None) -> dict[str, float]:
    """Return τ of every family and of the combined rank against F1 on one target.

    Flagged models rank below all others, as in a ranking.

    Parameters
    ----------
    record
        Of a target.
    chosen
        Places of the models of a smaller bank; None for all. Medians of agreement stay those of
        the whole bank.
    """
    models = [m for m in record["models"] if m["f1"] is not None]
    models = models if chosen is None else [models[i] for i in chosen if i < len(models)]
    truth = [m["f1"] for m in models]
    flagged = np.array([bool(m["flags"]) for m in models])
    values = {
        name: np.array([_value(m, score) for m in models])
        for name, score in FAMILIES.items()
        if any(score in m["scores"] for m in models)
    }
    found = {name: _tau(_percentiles(v, flagged), flagged, truth) for name, v in values.items()}
    found["combined"] = _tau(_combined(values, flagged), flagged, truth)
    return found


def _value(model: dict[str, Any], score: str) -> float:
    own = model["scores"].get(score, {}).get("own")
    return float("nan") if own is None else float(own)


def _percentiles(values: Floats, flagged: NDArray[np.bool_]) -> Floats:
    found = np.empty(len(values))
    for group in (flagged, ~flagged):
        found[group] = percentiles(values[group])
    return found


def _combined(values: dict[str, Floats], flagged: NDArray[np.bool_]) -> Floats:
    families: dict[str, list[Floats]] = {}
    for name, v in values.items():
        family = ScoreName.parse(FAMILIES[name]).family
        families.setdefault(family, []).append(_percentiles(v, flagged))
    means: Floats = np.mean([np.mean(f, axis=0) for f in families.values()], axis=0)
    return means


def _tau(keys: Floats, flagged: NDArray[np.bool_], truth: Sequence[float]) -> float:
    """Return Kendall's τ-b; by signs of pairs, for it is asked for very often."""
    keyed, true = keys - 2.0 * flagged, np.asarray(truth)
    a = np.sign(keyed[:, None] - keyed[None, :])
    b = np.sign(true[:, None] - true[None, :])
    most = float(np.abs(a).sum() * np.abs(b).sum())
    return float((a * b).sum() / most**0.5) if most else float("nan")


def _mean(taus: Sequence[dict[str, float]], name: str) -> float:
    return float(np.nanmean([t[name] for t in taus]))


def _gain(taus: Sequence[dict[str, float]]) -> float:
    """Return how far the combined rank's mean τ lies above the better of dropout and noise."""
    return _mean(taus, "combined") - max(_mean(taus, name) for name in PAPER)


def _drawn(records: Sequence[Record]) -> list[list[dict[str, float]]]:
    """Return the τ of resamples: targets with replacement, a smaller bank for each."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        taus = []
        for i in rng.integers(len(records), size=len(records)):
            n = len(records[i]["models"])
            taus.append(taus_of(records[i], np.sort(rng.permutation(n)[: min(n, SUBBANK)])))
        found.append(taus)
    return found


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def write_zoo_tables(out: Path, records: Sequence[Record]) -> None:
    """Write ``tables.json`` and ``tables.md`` of all tasks."""
    found: dict[str, Any] = {}
    lines = ["# Zoos of siblings: Kendall's τ of every family of evidence\n", _LEGEND]
    tasks = list(dict.fromkeys(r["task"] for r in records))
    halves: dict[str, list[Record]] = {"all": list(records), "half a": [], "half b": []}
    for task in tasks:
        its = [r for r in records if r["task"] == task]
        parts = {"all": its, "half a": its[::2], "half b": its[1::2]}
        found[task] = {name: _part(part) for name, part in parts.items() if part}
        lines += [f"## {task}\n", _task_table(its), _means_table(found[task])]
        for half in ("half a", "half b"):
            halves[half] += parts[half]
    if len(tasks) > 1:
        found["both"] = {name: _part(part) for name, part in halves.items() if part}
        lines += ["## Both zoos\n", _means_table(found["both"])]
    (out / "tables.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "tables.md").write_text("\n".join(lines))


_LEGEND = (
    "Against the median F1 over labelled tiles, over models that have seen neither labels nor "
    "images of the\ntarget's domain; flagged models last. In brackets the 95 % interval of a "
    f"bootstrap over targets and banks\nof {SUBBANK} of the models. Gain: the combined rank's mean "
    "τ less the better one of dropout and noise.\n"
)


def _part(records: Sequence[Record]) -> dict[str, Any]:
    taus = [taus_of(r) for r in records]
    drawn = _drawn(records)
    names = list(taus[0])
    return {
        "targets": [r["target_name"] for r in records],
        "taus": {r["target_name"]: t for r, t in zip(records, taus, strict=True)},
        "means": {n: _mean(taus, n) for n in names},
        "intervals": {n: _interval([_mean(d, n) for d in drawn]) for n in names},
        "gain": _gain(taus),
        "gain_interval": _interval([_gain(d) for d in drawn]),
    }


def _task_table(records: Sequence[Record]) -> str:
    names = list(taus_of(records[0]))
    rows = []
    for record in records:
        taus = taus_of(record)
        f1 = [m["f1"] for m in record["models"] if m["f1"] is not None]
        spread = f"{min(f1):.2f}–{max(f1):.2f}"
        w = record["combined"]["kendall_w"]
        told = [f"{taus[n]:.2f}" for n in names]
        shown = "–" if w is None else f"{w:.2f}"
        rows.append([record["target_name"], str(len(f1)), spread, *told, shown])
    return _table(["target", "models", "F1", *names, "W of families"], rows)


def _means_table(parts: dict[str, Any]) -> str:
    names = list(next(iter(parts.values()))["means"])
    rows = []
    for part, found in parts.items():
        cells = []
        for n in names:
            low, high = found["intervals"][n]
            cells.append(f"{found['means'][n]:.2f} [{low:.2f}, {high:.2f}]")
        low, high = found["gain_interval"]
        gain = f"{found['gain']:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append([f"{part} ({len(found['targets'])})", *cells, gain])
    return "Means over targets:\n\n" + _table(["targets", *names, "gain"], rows)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
