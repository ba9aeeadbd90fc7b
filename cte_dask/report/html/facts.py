"""Content of a report as plain data, from the files of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cte_dask.consistency.degenerate import (
    BLIND,
    DISTRUSTED,
    EVERYTHING,
    FLOODS,
    NOTHING,
    UNSTEADY,
)
from cte_dask.consistency.score_names import ScoreName
from cte_dask.ranking.consensus import consensus_in
from cte_dask.ranking.transfer import F1_ERROR
from cte_dask.report.html.answer import answer
from cte_dask.report.html.charts import Axis, axis_over, curve_chart, histogram_path
from cte_dask.report.html.heat_maps import map_data, winners
from cte_dask.report.html.tile_summary import summarise_tiles
from cte_dask.report.terminal.incomplete import incomplete_lines
from cte_dask.results.provenance import recorded_target, repeat_command, shown_url
from cte_dask.scoring.block_scores import STATUS

if TYPE_CHECKING:
    from cte_dask.report.html.tile_summary import TileSummary
    from cte_dask.results.run_folder import FinishedRun

__all__ = ["facts"]

RACE = ("verdict", "decided", "goal", "proven", "close", "rivals", "dropped")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EXPLAINED = {
    NOTHING: "finds foreground on hardly any tile; what finds nothing never changes",
    EVERYTHING: "calls nearly every voxel foreground; that never changes either",
    FLOODS: "calls most of a typical tile foreground, of which the other models see a part alone",
    BLIND: "marks the same places whatever the image shows; its score says nothing",
    UNSTEADY: "gives another prediction of the same tile each time; its score says nothing",
}


def facts(
    run: FinishedRun, calibration: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], TileSummary]:
    """Return the content of a report, without predicting anything.

    Parameters
    ----------
    run
        The run.
    calibration
        Content of a ``calibration.json``, if there is one.

    Returns
    -------
    tuple
        The data of the page's template, and the summary of the tiles behind them.
    """
    primary, score = str(run.ranking["primary"]), str(run.ranking["score"])
    entries = list(run.ranking["models"])
    ranked = [m for m in entries if m["rank"] is not None]
    names = [m["name"] for m in ranked]
    degenerate = {m["name"] for m in ranked if _degenerate(m)}
    summary = summarise_tiles(
        run.scores, names, [_number(m["scores"][score]["cte"]) for m in ranked], degenerate
    )
    usable = [n for n, m in enumerate(ranked) if m["name"] not in degenerate]
    labelled = run.ranking["bank"].get("labelled_tiles", 0)
    # a race compared estimates without labels: what ranks now is not what it has proven
    raced = "verdict" in run.ranking and not labelled
    race = {k: run.ranking[k] for k in RACE} if raced else None
    models = _models(ranked, summary, primary, score)
    axis, spread = _axes(models, summary)
    page = {
        "title": _name_of(run.experiment["target"]),
        "primary": primary,
        "score": score,
        "metric": ScoreName.parse(score).metric,
        "incomplete": incomplete_lines(
            run.ranking, [m["name"] for m in entries if m["rank"] is None]
        ),
        "blocks": run.ranking["blocks"],
        "not_stored": run.ranking.get("not_stored", ""),
        "models": models,
        "answer": answer(models, usable, race, as_good=run.ranking["bank"]["as_good"]),
        "bank": run.ranking["bank"],
        "margin": f"{F1_ERROR:g}",
        "labelled": labelled,
        "judged": any(m["estimated_f1"]["value"] is not None for m in ranked),
        "race": race,
        "axis": axis,
        "spread": spread,
        "scores": sorted({name for m in ranked for name in m["scores"]}, key=_first(score)),
        "common_note": _common_note(models),
        "winners": winners(summary),
        "map": map_data(summary, run.scores.layout, consensus_in(run)[0]),
        "excluded": [m for m in entries if m["rank"] is None],
        "explained": EXPLAINED,
        "curve": calibration and curve_chart(dict(calibration), names),
        "cost": _cost(run, len(names)),
        "provenance": _provenance(run),
    }
    return page, summary


def _degenerate(model: Mapping[str, Any]) -> bool:
    return bool(DISTRUSTED & set(model["flags"]))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _first(primary: str) -> Any:
    return lambda name: (name != primary, name)


def _name_of(target: Mapping[str, Any]) -> str:
    return shown_url(recorded_target(target)).split("?")[0].rstrip("/").rsplit("/", 1)[-1]


def _models(
    ranked: Sequence[Mapping[str, Any]], summary: TileSummary, primary: str, score: str
) -> list[dict[str, Any]]:
    def median(model: Mapping[str, Any]) -> float | None:
        return model["scores"][score]["cte"]  # type: ignore[no-any-return]

    quantiles = summary.quantiles(QUANTILES)
    codes = {code: name.replace("_", " ") for name, code in STATUS.items() if name != "scored"}
    return [
        {
            **model,
            **model["scores"][score],
            "drawn": _drawn(model, primary),
            "index": number,
            "degenerate": _degenerate(model),
            "quantiles": [*quantiles[number, :2], _number(median(model)), *quantiles[number, 3:]],
            "unscored": {
                name: int(summary.status[number, code])
                for code, name in codes.items()
                if summary.status[number, code]
            },
        }
        for number, model in enumerate(ranked)
    ]


def _drawn(model: Mapping[str, Any], primary: str) -> Mapping[str, Any]:
    """Return the number of a model whose interval is drawn: estimated F1, or what ranks."""
    alone = model["scores"].get(primary)
    if alone is None:
        return model["estimated_f1" if primary == "transfer" else "transfer"]  # type: ignore[no-any-return]
    return {"value": alone["cte"], "low": alone["low"], "high": alone["high"]}


def _common_note(models: Sequence[dict[str, Any]]) -> str:
    """Move a note that all models share out of each, to be printed once, and return it."""
    notes = {str(m["note"]) for m in models}
    if len(models) < 2 or len(notes) > 1:
        return ""
    for model in models:
        model["note"] = ""
    return notes.pop()


def _axes(
    models: Sequence[dict[str, Any]], summary: TileSummary
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Place intervals and histograms; return the axes of both for their headings."""
    ends = [_number(m["drawn"][key]) for m in models for key in ("low", "value", "high")]
    interval = axis_over(ends, 10, 120)
    lows = [q for m in models for q in (m["quantiles"][0],) if not math.isnan(q)]
    # From the lowest 5 % quantile, rounded down to 0.05: single outliers do not stretch the axis.
    spread = Axis(math.floor(min(lows, default=0.0) * 20) / 20 * 0.999, 1.0, 0, 240)
    for model, histogram in zip(models, summary.histogram, strict=True):
        keys, drawn = ("low", "value", "high"), model["drawn"]
        known = [key for key in keys if drawn["value"] is not None and drawn[key] is not None]
        model["at"] = {key: interval.coordinate(drawn[key]) for key in known}
        if model["cte"] is not None:
            model["median_at"] = spread.coordinate(model["cte"])
        model["histogram"] = histogram_path(histogram.sum(axis=0), spread)
    return {"marks": interval.marks(3)}, {"marks": spread.marks(4), "low": spread.low}


def _cost(run: FinishedRun, models: int) -> dict[str, Any]:
    experiment = run.experiment
    # One unperturbed prediction serves all perturbations.
    passes = 1 + len(experiment["perturbations"]) * experiment["repeats"]
    return {
        "tiles": experiment["tiles"],
        "models": models,
        "passes": passes,
        "predictions": experiment["tiles"] * models * passes,
        "blocks": run.ranking["blocks"],
        "device": experiment["device"],
        "precision": experiment["precision"],
        "sessions": run.folder.read_sessions(),
    }


def _provenance(run: FinishedRun) -> dict[str, Any]:
    experiment = run.experiment
    banks = [s["bank"] for s in run.folder.read_sessions() if s.get("bank")]
    target = {**experiment["target"], "url": shown_url(experiment["target"]["url"])}
    return {
        "command": repeat_command(
            experiment,
            shown_url(banks[-1]) if banks else "bank.yaml",
            run.ranking.get("goal"),
        ),
        "bank_known": bool(banks),
        "target": {k: v for k, v in target.items() if v not in (None, [])},
        "hash": experiment["hash"],
        "seed": experiment["seed"],
        "intensity": experiment["intensity"],
        "models": [{**m, "source": shown_url(str(m["source"]))} for m in experiment["models"]],
        "versions": run.ranking["versions"],
    }
