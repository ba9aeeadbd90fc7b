"""Figures of the paper's experiment, from the records: CTE against performance (the paper's
Fig. 2) and τ against the perturbation's strength (Fig. 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study import FEATURE, INPUT, SWEEP
from tables import summary

from cte_dask.consistency.score_names import ScoreName

__all__ = ["write_figures"]

Record = dict[str, Any]
METRICS = {"f1": ("nhd", "ei"), "map": ("vrand",)}
AXIS = {"f1": "median F1 of the foreground", "map": "median mAP"}


def write_figures(out: Path, task: str, records: Sequence[Record]) -> None:
    """Draw the figures of one task into a folder, as SVG and PNG."""
    performances = [p for p in METRICS if any(r["models"][0].get(p) is not None for r in records)]
    for performance in performances:
        _save(_against(records, performance), out / f"{task}-{performance}-performance")
        scores = summary(records).get(performance, {})
        if figure := _strengths(scores, METRICS[performance]):
            _save(figure, out / f"{task}-{performance}-strength")


def _save(figure: Figure, path: Path) -> None:
    for kind in ("svg", "png"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=120, metadata=_undated(kind))


def _undated(kind: str) -> dict[str, None]:
    return {"Date": None} if kind == "svg" else {}


def _figure(columns: int, rows: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.4 * columns, 3.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _against(records: Sequence[Record], performance: str) -> Figure:
    scores = [str(ScoreName(m, p)) for m in METRICS[performance] for p in (FEATURE, INPUT)]
    figure, panels = _figure(len(scores), 1)
    for axes, score in zip(panels[0], scores, strict=True):
        for number, record in enumerate(records):
            _draw_target(axes, record, score, performance, colour=f"C{number % 10}")
        axes.set(title=score, xlabel="CTE", ylabel=AXIS[performance])
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle("filled: compared; open: flagged; cross: knows the target's domain", fontsize=9)
    return figure


def _draw_target(axes: Any, record: Record, score: str, performance: str, *, colour: str) -> None:
    points = []
    for model in record["models"]:
        x, y = model["scores"].get(score, {}).get("own"), model.get(performance)
        if x is None or y is None:
            continue
        if model["left_out"]:
            axes.plot([x], [y], "x", color=colour, alpha=0.5)
            continue
        points.append((x, y))
        axes.plot([x], [y], "o", color=colour, mfc="none" if model["flags"] else colour, ms=5)
    axes.plot([], [], "o-", color=colour, label=record["target_name"])
    xs, ys = np.array(points).T if points else (np.empty(0), np.empty(0))
    if len(xs) > 1 and np.ptp(xs) > 0:
        slope, offset = np.polyfit(xs, ys, 1)
        ends = np.array([xs.min(), xs.max()])
        axes.plot(ends, slope * ends + offset, "-", color=colour, linewidth=1)


def _strengths(scores: dict[str, Any], metrics: Sequence[str]) -> Figure | None:
    """Draw the mean τ over targets against the strength, targets as thin lines."""
    kinds = {
        kind: here
        for kind, strengths in SWEEP.items()
        if len(here := [s for s in sorted(strengths) if _name(metrics[0], kind, s) in scores]) > 1
    }
    if not kinds:
        return None
    figure, panels = _figure(len(kinds), len(metrics))
    for row, metric in zip(panels, metrics, strict=True):
        for axes, (kind, strengths) in zip(row, kinds.items(), strict=True):
            _draw_curve(axes, [scores[_name(metric, kind, s)] for s in strengths], strengths)
            axes.set(xlabel=f"strength of {kind}", ylabel=f"Kendall's τ, {metric}")
            axes.set_ylim(-1.05, 1.05)
    return figure


def _name(metric: str, kind: str, strength: float) -> str:
    return str(ScoreName(metric, f"{kind}:{strength:g}"))


def _draw_curve(axes: Any, entries: Sequence[dict[str, Any]], strengths: Sequence[float]) -> None:
    for target in entries[0]["targets"]:
        curve = [_or_nan(e["targets"].get(target, {}).get("kendall")) for e in entries]
        axes.plot(strengths, curve, "-", color="0.75", linewidth=0.8)
    means = [e["mean"]["kendall"] for e in entries]
    low, high = ([_or_nan(m[side]) for m in means] for side in ("low", "high"))
    axes.fill_between(strengths, low, high, color="C0", alpha=0.15, linewidth=0)
    axes.plot(strengths, [_or_nan(m["mean"]) for m in means], "o-", color="C0")
    axes.axhline(0, color="0.6", linewidth=0.8)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
