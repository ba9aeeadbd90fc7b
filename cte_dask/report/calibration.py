"""The calibration curve as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cte_dask.ranking.calibration.numbers import _models, calibration_dict
from cte_dask.report.terminal.numbers import shown_number
from cte_dask.report.terminal.tables import output
from cte_dask.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cte_dask.ranking.calibration.strengths import Calibration, Strength

__all__ = ["calibration_table", "print_calibration", "write_curve"]


def write_curve(out: str, calibration: Calibration) -> None:
    """Draw the curve into ``calibration.png``.

    Left each model's CTE with its 95 % interval, right Kendall's W and the spread ratio, over the
    strength; a line marks the chosen one.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"the picture of the curve needs matplotlib ({error}): pip install 'cte-dask[report]'; "
            "the numbers are in calibration.json and calibration.csv"
        ) from None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_models(left, calibration)
    _draw_concordance(right, calibration)
    for axes in (left, right):
        axes.axvline(calibration.chosen.value, color="0.4", linestyle=":", zorder=0)
        axes.set_xlabel(f"strength of {calibration.kind}")
    chosen = f"chosen: {calibration.chosen.perturbation}"
    figure.suptitle(f"{chosen} (no strength eligible)" if calibration.fallback else chosen)
    with RunFolder(out).picture("calibration.png") as file:
        figure.savefig(file, format="png", dpi=120)


def _draw_models(axes: Axes, calibration: Calibration) -> None:
    x = [s.value for s in calibration.strengths]
    curves = [_models(s, calibration.metric) for s in calibration.strengths]
    names = [m.name for m in calibration.chosen.models if m.name in curves[0]]
    marks = "osv^D<>pX*hP"
    for number, name in enumerate(names):
        scores = [curve[name][0] for curve in curves]
        compared = name in calibration.compared
        (line,) = axes.plot(
            x,
            [s.cte for s in scores],
            marker=marks[number % len(marks)],
            linestyle="-" if compared else "--",
            label=name if compared else f"{name} (left out)",
        )
        low, high = [s.low for s in scores], [s.high for s in scores]
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_ylabel(f"CTE: median {calibration.metric} of a tile")
    axes.legend(fontsize=7)


def _draw_concordance(axes: Axes, calibration: Calibration) -> None:
    x = [s.value for s in calibration.strengths]
    axes.plot(x, [s.agreement for s in calibration.strengths], "k-", label="Kendall's W")
    for eligible, face in ((True, "k"), (False, "w")):
        group = [s for s in calibration.strengths if s.eligible == eligible]
        label = "eligible" if eligible else "not eligible"
        points = [s.value for s in group], [s.agreement for s in group]
        axes.plot(*points, "ko", markerfacecolor=face, label=label)
    axes.set_ylabel("Kendall's W over tiles")
    axes.set_ylim(-0.02, 1.02)
    ratios = [s.spread.ratio for s in calibration.strengths]
    beside = axes.twinx()
    beside.plot(x, ratios, color="tab:orange", marker=".", label="spread ratio")
    beside.axhline(1, color="tab:orange", linestyle="--", linewidth=0.8)
    beside.set_ylabel("spread between / within models", color="tab:orange")
    if any(math.isfinite(r) and r > 0 for r in ratios):
        beside.set_yscale("symlog", linthresh=1)
    axes.legend(fontsize=7, loc="lower left")


def calibration_table(calibration: Calibration) -> Table:
    """Return the curve as a table, the chosen strength marked."""
    title = f"Calibration of {calibration.kind} by {calibration.metric}"
    table = Table(title=title, title_justify="left")
    table.add_column("perturbation")
    headings = ("Kendall's W", "spread ratio", "tiles", "eligible", "least CTE", "most CTE", "NaN")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("")
    for strength in calibration.strengths:
        chosen = "chosen" if strength is calibration.chosen else ""
        table.add_row(*_row(strength, calibration), chosen, style="bold" if chosen else None)
    return table


def _row(strength: Strength, calibration: Calibration) -> Sequence[str | Text]:
    scores = [_models(strength, calibration.metric)[name][0] for name in calibration.compared]
    ctes = [s.cte for s in scores]
    return [
        Text(strength.perturbation),
        shown_number(strength.agreement),
        f"{strength.spread.ratio:.3g}",
        str(strength.n_tiles),
        "yes" if strength.eligible else "no",
        shown_number(min(ctes)),
        shown_number(max(ctes)),
        f"{100 * max(s.nan_fraction for s in scores):.1f} %",
    ]


def print_calibration(calibration: Calibration, *, as_json: bool) -> None:
    """Print the curve on standard output: a table and notes, or JSON alone."""
    if as_json:
        print(json.dumps(calibration_dict(calibration), indent=1, allow_nan=False))
        return
    console = output()
    console.print(calibration_table(calibration))
    for line in _notes(calibration):
        console.print(Text(line))


def _notes(calibration: Calibration) -> list[str]:
    notes = [
        f"{len(calibration.compared)} models compared on {calibration.n_pilot:,} of "
        f"{calibration.n_grid:,} tiles; chosen: --perturb {calibration.chosen.perturbation}"
    ]
    if calibration.fallback:
        notes.append(
            "no strength sets the models further apart than their own noise: the choice is by "
            "agreement alone, do not lean on it; use more --pilot-tiles or other --strengths"
        )
    elif calibration.index == len(calibration.strengths) - 1:
        notes.append(
            "it is the last of the grid: tiles may agree there on which models withstand the "
            "perturbation, not on which fit the target; look at the CTEs, and compare a weaker one"
        )
    notes += [f"left out: {n} ({', '.join(f)})" for n, f in calibration.degenerate.items()]
    return notes + [f"excluded: {n}: {why}" for n, why in calibration.excluded.items()]
