"""The curve of a calibration as JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cte_dask.consistency.score_names import ScoreName
from cte_dask.results.csv_text import csv_text

if TYPE_CHECKING:
    from cte_dask.ranking.calibration.strengths import Calibration, Strength
    from cte_dask.ranking.rank import Score

__all__ = ["calibration_dict", "calibration_table"]

CALIBRATION_SCHEMA = "cte-calibration/1"
COLUMNS = (
    "perturbation",
    "strength",
    "chosen",
    "eligible",
    "kendall_w",
    "spread_ratio",
    "between",
    "within",
    "n_tiles",
)


def calibration_dict(calibration: Calibration) -> dict[str, Any]:
    """Return the content of ``calibration.json``; what is not finite is None, which JSON has."""
    from cte_dask.scoring.experiment import versions

    experiment = calibration.experiment
    return {
        "schema": CALIBRATION_SCHEMA,
        "kind": calibration.kind,
        "metric": calibration.metric,
        "chosen": calibration.chosen.perturbation,
        "strength": calibration.chosen.value,
        "fallback": calibration.fallback,
        "strengths": [
            _strength_dict(s, calibration.metric, chosen=s is calibration.chosen)
            for s in calibration.strengths
        ],
        "compared": list(calibration.compared),
        "degenerate": {name: list(flags) for name, flags in calibration.degenerate.items()},
        "excluded": dict(calibration.excluded),
        "pilot_tiles": calibration.n_pilot,
        "tiles": calibration.n_grid,
        "tile": list(experiment.grid.tile),
        "target": experiment.volume.describe(),
        "seed": experiment.seed,
        "experiment": experiment.digest(),
        "versions": versions(),
    }


def _strength_dict(strength: Strength, metric: str, *, chosen: bool) -> dict[str, Any]:
    return {
        "perturbation": strength.perturbation,
        "strength": strength.value,
        "chosen": chosen,
        "eligible": strength.eligible,
        "kendall_w": _plain(strength.agreement),
        "spread_ratio": _plain(strength.spread.ratio),
        "between": _plain(strength.spread.between),
        "within": _plain(strength.spread.within),
        "n_tiles": strength.n_tiles,
        "models": {
            name: {**score.to_dict(), "flags": list(flags)}
            for name, (score, flags) in sorted(_models(strength, metric).items())
        },
    }


def _models(strength: Strength, metric: str) -> dict[str, tuple[Score, tuple[str, ...]]]:
    name = str(ScoreName(metric, strength.perturbation))
    return {m.name: (m.scores[name], m.flags) for m in strength.models if name in m.scores}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def calibration_table(result: Mapping[str, Any]) -> str:
    """Return the content of ``calibration.csv``, one row a strength.

    Parameters
    ----------
    result
        From `calibration_dict`.
    """
    models = sorted({name for s in result["strengths"] for name in s["models"]})
    fields = ("cte", "low", "high", "nan_fraction")
    rows = [[*COLUMNS, *(f"{name} {field}" for name in models for field in fields)]]
    for strength in result["strengths"]:
        lead = [strength[column] for column in COLUMNS]
        cells = [strength["models"].get(n, {}).get(f) for n in models for f in fields]
        rows.append([*lead, *cells])
    return csv_text(rows)
