"""An evaluation as JSON, as tables in the terminal and as one Parquet row a model and tile."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cte_dask.evaluation.result import performance_of
from cte_dask.report.terminal.tables import output
from cte_dask.results.run_folder import RunFolder

if TYPE_CHECKING:
    from cte_dask.evaluation.rank_correlation import RankCorrelation
    from cte_dask.evaluation.result import Evaluation, ModelEvaluation, ScoreCorrelation

__all__ = ["evaluation_dict", "print_evaluation", "write_evaluation"]

EVALUATION_SCHEMA = "cte-evaluation/1"
TITLES = {"f1": "F1", "map": "mAP"}
_SHORT = {"cte": "CTE"}
"""How a column names what models are ranked by, where it is not by its own name."""


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of ``evaluation.json``; NaN becomes None, which JSON has."""
    return {
        "schema": EVALUATION_SCHEMA,
        "primary": evaluation.primary,
        "n_tiles": evaluation.n_tiles,
        "n_labelled": evaluation.n_labelled,
        "seed": evaluation.seed,
        "notes": list(evaluation.notes),
        "models": [_model_dict(m) for m in evaluation.models],
        "agreement": [
            _score_correlation_dict(a, evaluation) for a in evaluation.score_correlations
        ],
        "bootstrap_units": evaluation.n_units,
        **evaluation.about,
    }


def _model_dict(model: ModelEvaluation) -> dict[str, Any]:
    return {
        "name": model.name,
        "rank": model.rank,
        "flags": list(model.flags),
        "cause": model.cause or None,
        "left_out": model.left_out or None,
        "n_labelled": model.n_labelled,
        **{name: _plain(value) for name, value in model.performance.items()},
        "scores": {
            name: {"own": _plain(value), "common": _plain(model.common.get(name, math.nan))}
            for name, value in model.scores.items()
        },
    }


def _score_correlation_dict(
    correlation: ScoreCorrelation, evaluation: Evaluation
) -> dict[str, Any]:
    natural = performance_of(correlation.score, evaluation.performances)
    common = correlation.common
    flagged = correlation.flagged_last
    return {
        "score": correlation.score,
        "performance": correlation.performance,
        "natural": correlation.performance == natural,
        **_correlation_dict(correlation.correlation),
        "low": _plain(correlation.low),
        "high": _plain(correlation.high),
        "flagged_last": {
            "kendall": _plain(flagged.kendall),
            "spearman": _plain(flagged.spearman),
            "p_kendall": _plain(flagged.p_kendall),
        },
        "common": common and {**_correlation_dict(common), "n_tiles": correlation.n_common},
    }


def _correlation_dict(correlation: RankCorrelation) -> dict[str, Any]:
    return {
        "kendall": _plain(correlation.kendall),
        "spearman": _plain(correlation.spearman),
        "pearson": _plain(correlation.pearson),
        "n": correlation.n,
        "p_kendall": _plain(correlation.p_kendall),
        "p_spearman": _plain(correlation.p_spearman),
        "p_pearson": _plain(correlation.p_pearson),
    }


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def write_evaluation(run: str, evaluation: Evaluation) -> None:
    """Write ``evaluation.json`` and ``evaluation-tiles.parquet`` into the folder of a run.

    Parameters
    ----------
    run
        Folder or URL.
    evaluation
        The evaluation; its tiles are a row a model and tile.
    """
    RunFolder(run).write_evaluation(evaluation_dict(evaluation), evaluation.tiles)


def print_evaluation(evaluation: Evaluation, *, as_json: bool) -> None:
    """Print an evaluation on standard output: tables and notes, or JSON alone."""
    if as_json:
        print(json.dumps(evaluation_dict(evaluation), indent=1, allow_nan=False))
        return
    console = output()
    console.print(_models_table(evaluation))
    console.print(_correlations_table(evaluation))
    for line in evaluation.notes:
        console.print(Text(line))


def _models_table(evaluation: Evaluation) -> Table:
    """Return the models in rank order with their performance."""
    title = (
        f"Ranking by {evaluation.primary} and performance: medians over "
        f"{evaluation.n_labelled:,} labelled of {evaluation.n_tiles:,} tiles"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("rank", "model"):
        table.add_column(heading)
    names = [TITLES[p] for p in evaluation.performances]
    primary = str(evaluation.primary)
    for heading in (_SHORT.get(primary, primary), *names, "entropy", "confidence", "CCFV"):
        table.add_column(heading, justify="right")
    table.add_column("notes")
    for model in evaluation.models:
        scores = model.scores
        numbers = [
            scores[evaluation.primary],
            *(model.performance[p] for p in evaluation.performances),
            -scores["entropy"],  # as a score it is negative; the table shows bits
            scores["confidence"],
            scores.get("ccfv", math.nan),
        ]
        reasons = (("not evaluated", model.cause), ("not compared", model.left_out))
        notes = (*model.flags, *(f"{what}: {why}" for what, why in reasons if why))
        cells = [_number(n, 4) for n in numbers]
        table.add_row(str(model.rank), Text(model.name), *cells, Text("; ".join(notes)))
    return table


def _correlations_table(evaluation: Evaluation) -> Table:
    """Return each score's correlations with its own kind of performance, F1 or mAP."""
    table = Table(title="Agreement of scores with performance", title_justify="left")
    table.add_column("score")
    table.add_column("with")
    headings = ("Kendall τ", "95 % interval", "Spearman ρ", "Pearson r", "n", "p of τ")
    for heading in (*headings, "τ, flagged last", "τ, common tiles"):
        table.add_column(heading, justify="right")
    for correlation in evaluation.score_correlations:
        if correlation.performance != performance_of(correlation.score, evaluation.performances):
            continue
        plain, common = correlation.correlation, correlation.common
        interval = f"{_number(correlation.low)} – {_number(correlation.high)}"
        table.add_row(
            Text(correlation.score),
            TITLES[correlation.performance],
            _number(plain.kendall),
            interval if math.isfinite(correlation.low) else "–",
            _number(plain.spearman),
            _number(plain.pearson),
            str(plain.n),
            "–" if plain.p_kendall is None else _number(plain.p_kendall, 3),
            _number(correlation.flagged_last.kendall),
            _number(common.kendall) if common else "–",
            style="bold" if correlation.score == evaluation.primary else None,
        )
    return table


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"
