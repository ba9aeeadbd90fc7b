"""The tables and the figure of the vessel networks, from the records of both targets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ordering import APART, DEFAULT

__all__ = ["write_figure", "write_records", "write_tables"]

Record = dict[str, Any]
ARCHITECTURES = {"m2unet": "M2U-Net", "wnet": "W-Net", "retina_unet": "retina-unet"}
NOTHING = "predicts nothing"
COLUMNS = ("f1", "estimated F1", "CTE, dropout", "CTE, mirror", "CTE, noise", "CTE, several")


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write all records as one JSON file."""
    text = json.dumps({"targets": list(records)}, indent=1, allow_nan=False)
    path.write_text(text + "\n")


def write_tables(path: Path, records: Sequence[Record]) -> None:
    """Write a page of Markdown: how well each score orders the networks, and the networks."""
    sections = ["# Thirteen published vessel networks, ranked without labels\n", _legend()]
    for record in records:
        target = record["target"]
        sections += [f"## {target['title']}, {target['images']} images\n", _scores(record)]
        sections += [_estimation(record), _models(record)]
    path.write_text("\n".join(sections))


def _legend() -> str:
    return f"""\
Written by `benchmarks/vessels/run.py`. τ: Kendall's τ-b between a score and the median F1 over
images, networks flagged as predicting nothing below all others; in brackets the 95 %
interval of a bootstrap over images. Usable: without the flagged ones. Foreign: of these the ones
that have not learnt from the target's data set. Told apart: over the pairs of usable networks that
labels order alike in 97.5 % of the resamples. Pairs: those more than {APART} of F1 apart. Lost: F1
of the best network less that of the one ranked first.
"""


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _scores(record: Record) -> str:
    heading = (
        *("score", "τ", "τ, usable", "τ, foreign", "τ, told apart"),
        *("pairs in order", "lost", "first"),
    )
    names = [model["name"] for model in record["models"]]
    rows = [
        [
            f"**{name}**" if name == DEFAULT else name,
            f"{_number(row['tau'])} [{_number(row['low'])}, {_number(row['high'])}]",
            _number(row["tau_usable"]),
            _number(row["tau_foreign"]),
            _number(row["tau_told_apart"]),
            f"{row['share']:.3f} of {row['pairs']}",
            _number(row["lost"], 3),
            names[row["pick"]],
        ]
        for name, row in record["scores"].items()
    ]
    return _table(heading, rows)


def _estimation(record: Record) -> str:
    row, known = record["estimated_f1"], record["labels"]
    pick = row["pick"]
    return (
        "Two halves of the images order the usable networks, by labels, with a mean τ of "
        f"{_number(known['half_tau'])};\n{known['told_apart']} of {known['pairs']} pairs are told "
        "apart. Estimated against true F1 of the usable networks: off by\n"
        f"{_number(row['mean_absolute_error'], 3)} on average (bias {row['bias']:+.3f}), "
        f"Pearson's r {_number(row['pearson'])}; of the first pick {_number(pick['estimated'])}, "
        f"in truth {_number(pick['true'])}. Of\nthe pixels that a network has wrong, most of the "
        f"others have {100 * record['shared_errors']:.0f} % wrong, too.\n"
    )


def _models(record: Record) -> str:
    heading = ("network", "learnt from", "F1", *COLUMNS[1:], "agreement", "notes")
    order = sorted(record["models"], key=lambda model: -model["f1"])
    rows = [
        [
            model["name"],
            model["trained_on"],
            *(_number(model[name]) for name in (*COLUMNS, "agreement")),
            "; ".join(model["flags"]),
        ]
        for model in order
    ]
    return _table(heading, rows)


def write_figure(path: Path, records: Sequence[Record]) -> None:
    """Draw estimated against true F1 of all networks, a panel a target."""
    figure = Figure(figsize=(max(8.5, 4.8 * len(records)), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(records), squeeze=False)[0]
    for axes, record in zip(panels, records, strict=True):
        _draw(axes, record)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=7)
    figure.savefig(path, dpi=120)


def _draw(axes: Any, record: Record) -> None:
    """Draw one target: a colour an architecture and training set, a ring around the first pick."""
    axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
    kinds: dict[str, list[tuple[float, float]]] = {}
    for model in record["models"]:
        estimated = model["estimated F1"]
        point = model["f1"], 0.0 if estimated is None else estimated
        kinds.setdefault(_kind(model), []).append(point)
    for number, (kind, points) in enumerate(kinds.items()):
        flagged = kind == NOTHING
        marker, colour = ("x", "0.4") if flagged else ("o", f"C{number}")
        axes.scatter(*zip(*points, strict=True), s=42, marker=marker, color=colour, label=kind)
    first = record["models"][record["scores"][DEFAULT]["pick"]]
    place = [first["f1"]], [first["estimated F1"]]
    axes.scatter(*place, s=150, facecolors="none", edgecolors="k", label="ranked first")
    axes.set(
        title=f"{record['target']['title']}, {record['target']['images']} images",
        xlabel="F1 that labels say",
        ylabel="F1 estimated without labels",
        xlim=(-0.03, 1),
        ylim=(-0.03, 1),
        aspect="equal",
    )


def _kind(model: Record) -> str:
    """Return the architecture and what it has learnt from; those that predict nothing are one."""
    if model["flags"]:
        return NOTHING
    architecture = next(title for name, title in ARCHITECTURES.items() if name in model["name"])
    return f"{architecture}, learnt from {model['trained_on']}"
