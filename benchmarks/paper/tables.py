"""Tables of the paper's experiment, from the records of its targets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from choices import choices, ordered_pairs
from regimes import centred_tau, model_share, regime_tau
from study import FEATURE, INPUT

from cte_dask.consistency.score_names import ScoreName
from cte_dask.evaluation.result import cte_name

__all__ = ["ROWS", "mean_interval", "summary", "write_tables"]

ROWS = {
    "f1": {
        "NHD feature": str(ScoreName("nhd", FEATURE)),
        "NHD input": str(ScoreName("nhd", INPUT)),
        "EI feature": str(ScoreName("ei", FEATURE)),
        "EI input": str(ScoreName("ei", INPUT)),
        "CCFV": "ccfv",
        "entropy": "entropy",
        "confidence": "confidence",
    },
    "map": {
        "V^Rand feature": str(ScoreName("vrand", FEATURE)),
        "V^Rand input": str(ScoreName("vrand", INPUT)),
        "CCFV": "ccfv",
        "entropy": "entropy",
        "confidence": "confidence",
    },
}
"""Performance → rows of its table and the score of each; Table 1 and Table 2 of the paper."""

TITLES = {"f1": "semantic (F1)", "map": "instances (mAP)"}
MEASURES = ("kendall", "spearman", "pearson")
RESAMPLES = 10_000

Record = dict[str, Any]


def summary(records: Sequence[Record], *, seed: int = 0) -> dict[str, Any]:
    """Return every score's correlations a target, and their means over targets.

    Parameters
    ----------
    records
        Of the targets of one task.
    seed
        Of the bootstrap over targets.

    Returns
    -------
    dict
        Performance → score → ``{"targets": {name: {…}}, "mean": {…}}``. Means have 95 % intervals
        of a bootstrap over targets, and leave out targets where the correlation is not defined;
        ``n_targets`` counts the others.
    """
    correlations: dict[str, dict[str, Any]] = {}
    for record in records:
        for row in record["agreement"]:
            scores = correlations.setdefault(row["performance"], {})
            targets = scores.setdefault(row["score"], {"targets": {}})["targets"]
            targets[record["target_name"]] = _cell(row)
    for scores in correlations.values():
        for entry in scores.values():
            cells = list(entry["targets"].values())
            names = (*MEASURES, "kendall_flagged_last", "kendall_common")
            entry["mean"] = {n: mean_interval([c[n] for c in cells], seed=seed) for n in names}
    return correlations


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    common = row["common"] or {}
    return {
        **{name: row[name] for name in (*MEASURES, "n", "p_kendall", "low", "high")},
        "kendall_flagged_last": row["flagged_last"]["kendall"],
        "kendall_common": common.get("kendall"),
    }


def mean_interval(
    values: Iterable[float | None], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, float | int | None]:
    """Return the mean of some numbers and its 95 % bootstrap interval; None are left out.

    Returns
    -------
    dict
        ``mean``, ``low``, ``high`` (None below two numbers) and ``n_targets``.
    """
    known = np.array([v for v in values if v is not None], dtype=float)
    if not len(known):
        return {"mean": None, "low": None, "high": None, "n_targets": 0}
    drawn = np.random.default_rng(seed).choice(known, (resamples, len(known))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist() if len(known) > 1 else (None, None)
    return {"mean": float(known.mean()), "low": low, "high": high, "n_targets": len(known)}


def write_tables(out: Path, records: Sequence[Record]) -> None:
    """Write ``tables.json`` and ``tables.md`` of all tasks."""
    tasks = dict.fromkeys(r["task"] for r in records)
    summaries = {task: summary([r for r in records if r["task"] == task]) for task in tasks}
    (out / "tables.json").write_text(json.dumps(summaries, indent=1, allow_nan=False) + "\n")
    sections = ["# The paper's experiment: agreement of scores with performance\n", _legend()]
    for task, performances in summaries.items():
        its = [r for r in records if r["task"] == task]
        for performance, scores in performances.items():
            sections.append(f"## {task}: {TITLES[performance]}\n")
            sections.append(_means(performance, scores))
            sections.append(_targets(performance, scores, its))
            sections.append(_sweep(performance, scores))
            sections.append(_picks(performance, its))
            sections.append(_reliable(performance, its))
            sections.append(_regimes(performance, its) if task == "nuclei" else "")
        sections.append(_models(task, its))
    (out / "tables.md").write_text("\n".join(sections))


def _legend() -> str:
    return (
        "Kendall's τ-b, Spearman's ρ and Pearson's r between a score and the median performance "
        "over\nlabelled tiles, over the models that have not seen the target's domain. "
        f"Feature: `{FEATURE}`; input: `{INPUT}`;\nboth fixed before any target was scored. "
        "Means are over targets, in brackets their 95 % bootstrap interval over\ntargets. "
        '"Flagged last": models flagged as degenerate below all others, as the ranking has them.\n'
    )


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _shown(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def _mean(entry: dict[str, Any]) -> str:
    interval = "" if entry["low"] is None else f" [{_shown(entry['low'])}, {_shown(entry['high'])}]"
    return f"{_shown(entry['mean'])}{interval}"


def _means(performance: str, scores: dict[str, Any]) -> str:
    columns = (*MEASURES, "kendall_flagged_last", "kendall_common")
    heading = ("score", "τ", "ρ", "r", "τ, flagged last", "τ, common tiles", "targets")
    rows = [
        [
            title,
            *(_mean(scores[score]["mean"][name]) for name in columns),
            str(scores[score]["mean"]["kendall"]["n_targets"]),
        ]
        for title, score in ROWS[performance].items()
        if score in scores
    ]
    return _table(heading, rows)


def _targets(performance: str, scores: dict[str, Any], records: Sequence[Record]) -> str:
    shown = {title: s for title, s in ROWS[performance].items() if s in scores}
    rows = []
    for record in records:
        name = record["target_name"]
        cells = [scores[s]["targets"].get(name) for s in shown.values()]
        count = next((str(c["n"]) for c in cells if c), "0")
        rows.append([name, count, *("–" if c is None else _triple(c) for c in cells)])
    return "τ / ρ / r of each target:\n\n" + _table(("target", "models", *shown), rows)


def _triple(cell: dict[str, Any]) -> str:
    numbers = " / ".join(_shown(cell[name]) for name in MEASURES)
    if cell["low"] is None:
        return numbers
    return f"{numbers} [{_shown(cell['low'])}, {_shown(cell['high'])}]"


def _sweep(performance: str, scores: dict[str, Any]) -> str:
    metrics = ("vrand",) if performance == "map" else ("nhd", "ei")
    known = [name for score in scores if (name := cte_name(score)) is not None]
    names = [name.perturbation for name in known if name.metric == metrics[0]]
    if len(names) <= 2:
        return ""
    rows = [
        [name, *(_mean(scores[str(ScoreName(m, name))]["mean"]["kendall"]) for m in metrics)]
        for name in names
    ]
    return "Mean τ of every strength:\n\n" + _table(("perturbation", *metrics), rows)


def _picks(performance: str, records: Sequence[Record]) -> str:
    """Return what picking by each score costs, and the share of pairs in order by their gap."""
    rows = []
    for title, score in ROWS[performance].items():
        picked = choices(records, performance, score)
        pairs = ordered_pairs(records, performance, score)
        if picked["n_targets"]:
            cost = (picked["lost"], picked["lost_at_random"], picked["best_found"])
            shares = (f"{_shown(p['share'])} of {p['pairs']}" for p in pairs)
            rows.append([title, *map(_shown, cost), *shares])
    gaps = [f"gap {p['above']:g}–{p['below']:g}" for p in ordered_pairs([], performance, "")]
    heading = ("score", "lost by its first", "lost at random", "best is first", *gaps)
    return (
        "What a pick costs (mean over targets: performance of the best model less that of the "
        "one ranked first;\nless that of a model at random; share of targets whose best model is "
        "first), and the share of pairs of models\nin order, by how far the two lie apart:\n\n"
        + _table(heading, rows)
    )


def _reliable(performance: str, records: Sequence[Record]) -> str:
    """Return what the labels tell of the order, and τ over the pairs that they tell apart."""
    all_known = (r.get("reliability", {}).get(performance) for r in records)
    known = [k for k in all_known if k]
    if not known:
        return ""
    halves = mean_interval(k["half_tau"] for k in known)
    apart, pairs = (sum(k[name] for k in known) for name in ("told_apart", "pairs"))
    rows = [
        [title, _mean(mean_interval(k["taus"].get(score) for k in known))]
        for title, score in ROWS[performance].items()
        if any(score in k["taus"] for k in known)
    ]
    return (
        "The labels themselves: two halves of the tiles order the models with a mean τ of "
        f"{_mean(halves)}\n({len(known)} targets of four or more groups); {apart} of {pairs} "
        "pairs of models keep their order in 97.5 % of the "
        "resamples of a bootstrap over groups of tiles.\nMean τ over these pairs alone:\n\n"
        + _table(("score", "τ, pairs told apart"), rows)
    )


def _regimes(performance: str, records: Sequence[Record]) -> str:
    """Return what of each score is the network's own, and τ within each regime of training."""
    rows = []
    for title, score in {**ROWS[performance], performance: performance}.items():
        share, taus = model_share(records, score), regime_tau(records, performance, score)
        if score == performance:
            rows.append([title, _shown(share), "–", "–", "–"])
            continue
        shown = [_shown(taus.get(regime)) for regime in ("full", "plain")]
        rows.append(
            [title, _shown(share), _shown(centred_tau(records, performance, score)), *shown]
        )
    return (
        "Share of a score's variance between models that is the same on every target; mean τ of "
        "the score less the\nmodel's mean over the other targets; mean τ among models trained with "
        "full augmentation, and among plain ones:\n\n"
        + _table(("score", "model's share", "τ, centred", "τ, full", "τ, plain"), rows)
    )


def _models(task: str, records: Sequence[Record]) -> str:
    """Return performance and CTE of every model on every target; those at home are marked."""
    rows = []
    for record in records:
        for model in record["models"]:
            scores = model["scores"]
            marks = ["at home"] if model["left_out"] else []
            rows.append(
                [
                    record["target_name"],
                    model["name"],
                    _shown(model.get("f1")),
                    _shown(model.get("map")),
                    *(_shown(scores.get(s, {}).get("own")) for s in ROWS["f1"].values()),
                    "; ".join([*marks, *model["flags"]]),
                ]
            )
    heading = ("target", "model", "F1", "mAP", *ROWS["f1"], "notes")
    return f"### {task}: models\n\n" + _table(heading, rows)
