"""Figures of an evaluation, after the paper's: CTE against performance, τ against strength.

Matplotlib comes with the extra ``report``. The drawing functions take axes, so that several targets
can share a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cte_dask.evaluation.result import cte_name, performance_of
from cte_dask.perturb import Perturbation
from cte_dask.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cte_dask.evaluation.result import Evaluation, ScoreCorrelation

__all__ = [
    "draw_correlations",
    "draw_performance",
    "draw_strength",
    "strengths",
    "write_figures",
]

TITLES = {"f1": "F1 of the foreground", "map": "mean average precision"}
SPACES = {"feature": "tab:blue", "input": "tab:orange", "": "0.45"}
MARKS = "osv^D<>pX*hP"


def write_figures(run: str, evaluation: Evaluation) -> list[str]:
    """Draw the figures of an evaluation into the folder of a run, as SVG and as PNG.

    ``evaluation-performance`` (scores against performance with least-squares lines, the paper's
    Fig. 2), ``evaluation-agreement`` (every score's τ, feature beside input perturbation), and
    where the run holds several strengths of a kind ``evaluation-strength`` (τ against the
    strength, Fig. 3).

    Returns
    -------
    list of str
        Names of the files.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    _check_matplotlib()
    figures = {"performance": _performance(evaluation), "agreement": _correlations(evaluation)}
    if curves := strengths(evaluation):
        figures["strength"] = _strength(evaluation, curves)
    names, folder = [], RunFolder(run)
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            names.append(f"evaluation-{name}.{kind}")
            with folder.picture(names[-1]) as file:
                figure.savefig(file, format=kind, dpi=130)
    return names


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the figures need matplotlib ({error}): pip install 'cte-dask[report]'; the numbers "
            "are in evaluation.json"
        ) from None


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no window system, no global state that keeps figures alive.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _performance(evaluation: Evaluation) -> Figure:
    """Draw CTE against performance, one panel for the first score of each metric and space."""
    scores = _first_scores(evaluation)
    figure = _figure(4.2 * len(scores), 4.6)
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, score in zip(panels, scores, strict=True):
        draw_performance(axes, evaluation, score)
        axes.set_title(score, fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    if names:
        columns = min(len(names), 2 * len(scores))
        figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=7)
    return figure


def _first_scores(evaluation: Evaluation) -> list[str]:
    """Return the first score of each metric and space of perturbation."""
    scores: dict[tuple[str, str], str] = {}
    for correlation in evaluation.score_correlations:
        if (name := cte_name(correlation.score)) is not None:
            scores.setdefault((name.metric, _space(correlation.score)), correlation.score)
    return list(scores.values())


def _space(score: str) -> str:
    name = cte_name(score)
    return "" if name is None else Perturbation.parse(name.perturbation).space


def draw_performance(
    axes: Axes, evaluation: Evaluation, score: str, *, colour: str = "0.2", label: str = ""
) -> None:
    """Draw one score against performance: a mark a model, and the least-squares line.

    Parameters
    ----------
    axes
        The axes to draw into.
    evaluation
        The evaluation of one target.
    score
        Such as ``nhd@dropout:0.2``.
    colour
        Colour of the line, and of the marks if there is a `label`.
    label
        Name of the target where several share the axes; marks then stand for the target, not for
        models.
    """
    correlation = evaluation.score_correlation(score)
    points = [
        (m.scores[score], m.performance[correlation.performance], m)
        for m in evaluation.models
        if not m.cause and not m.left_out
    ]
    finite = [(x, y, m) for x, y, m in points if math.isfinite(x) and math.isfinite(y)]
    for number, (x, y, model) in enumerate(finite):
        style: dict[str, Any] = {"color": f"C{number % 10}", "label": model.name}
        if label:
            style = {"color": colour, "label": label if number == 0 else None}
        flagged = bool(model.flags)
        face = "none" if flagged else style["color"]
        mark = MARKS[number % len(MARKS)] if not label else "o"
        axes.plot([x], [y], mark, markerfacecolor=face, markersize=7, **style)
    xs, ys = (np.array([p[i] for p in finite], dtype=float) for i in (0, 1))
    if len(xs) > 1 and np.ptp(xs) > 0:
        slope, offset = np.polyfit(xs, ys, 1)
        ends = np.array([xs.min(), xs.max()])
        axes.plot(ends, slope * ends + offset, "-", color=colour, linewidth=1, zorder=0)
    plain = correlation.correlation
    if not label:
        text = f"τ {plain.kendall:.2f}  ρ {plain.spearman:.2f}  r {plain.pearson:.2f}  n {plain.n}"
        axes.text(0.02, 0.98, text, transform=axes.transAxes, va="top", fontsize=8)
    axes.set_xlabel("CTE (open mark: flagged)")
    axes.set_ylabel(f"median {TITLES[correlation.performance]}")
    axes.margins(y=0.12)


def _correlations(evaluation: Evaluation) -> Figure:
    rows = _natural(evaluation)
    figure = _figure(7.5, 1.4 + 0.28 * len(rows))
    axes = figure.subplots()
    draw_correlations(axes, rows)
    return figure


def _natural(evaluation: Evaluation) -> list[ScoreCorrelation]:
    """Return each score's correlation with its own kind of performance, F1 or mAP."""
    return [
        a
        for a in evaluation.score_correlations
        if a.performance == performance_of(a.score, evaluation.performances)
    ]


def draw_correlations(axes: Axes, rows: Sequence[ScoreCorrelation]) -> None:
    """Draw τ of every score with its interval: feature, input, and comparators in grey."""
    order = sorted(rows, key=lambda a: ("feature", "input", "").index(_space(a.score)))
    seen: set[str] = set()
    for place, row in enumerate(order):
        space = _space(row.score)
        label = {"feature": "feature perturbation", "input": "input perturbation"}.get(
            space, "comparator"
        )
        tau = row.correlation.kendall
        if not math.isfinite(tau):
            continue
        if math.isfinite(row.low):
            axes.plot([row.low, row.high], [place, place], "-", color=SPACES[space], linewidth=2)
        legend = None if label in seen else label
        axes.plot([tau], [place], "o", color=SPACES[space], label=legend)
        seen.add(label)
    axes.set_yticks(range(len(order)), [f"{a.score} · {a.performance}" for a in order], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("Kendall's τ with performance (95 % bootstrap over tiles)")
    if seen:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))


def strengths(evaluation: Evaluation) -> dict[str, dict[str, list[tuple[float, ScoreCorrelation]]]]:
    """Return kind → metric → (strength, correlation) for kinds with several strengths."""
    by_kind: dict[str, dict[str, list[tuple[float, ScoreCorrelation]]]] = {}
    for correlation in _natural(evaluation):
        name = cte_name(correlation.score)
        if name is None:
            continue
        parsed = Perturbation.parse(name.perturbation)
        kind = parsed.kind if parsed.mode in (None, "bernoulli") else f"{parsed.kind} {parsed.mode}"
        curve = by_kind.setdefault(kind, {}).setdefault(name.metric, [])
        curve.append((parsed.strength, correlation))
    several = {
        kind: {m: sorted(c, key=lambda point: point[0]) for m, c in curves.items() if len(c) > 1}
        for kind, curves in by_kind.items()
    }
    return {kind: curves for kind, curves in several.items() if curves}


def _strength(
    evaluation: Evaluation, curves: Mapping[str, Mapping[str, list[tuple[float, ScoreCorrelation]]]]
) -> Figure:
    figure = _figure(4.4 * len(curves), 3.8)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (kind, metrics) in zip(panels, curves.items(), strict=True):
        draw_strength(axes, metrics)
        axes.set_xlabel(f"strength of {kind}")
    return figure


def draw_strength(
    axes: Axes, metrics: Mapping[str, Sequence[tuple[float, ScoreCorrelation]]]
) -> None:
    """Draw τ against the strength with its 95 % interval, one line a metric."""
    for number, (metric, curve) in enumerate(metrics.items()):
        x = [strength for strength, _ in curve]
        colour = f"C{number}"
        axes.plot(x, [a.correlation.kendall for _, a in curve], "o-", color=colour, label=metric)
        low, high = [a.low for _, a in curve], [a.high for _, a in curve]
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_ylim(-1.05, 1.05)
    axes.set_ylabel("Kendall's τ with performance")
    axes.legend(fontsize=8)
