"""Rank pre-trained segmentation models on an unlabelled microscopy volume (CTE).

The public names below are imported when first used: ``import cte_dask`` loads neither torch nor
dask.

>>> import cte_dask
>>> volume = cte_dask.open_volume("target.zarr")          # doctest: +SKIP
>>> bank = cte_dask.load_bank("bank.yaml")                # doctest: +SKIP
>>> cte_dask.rank(cte_dask.score(volume, bank))           # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cte_dask.engine.cost import Plan, plan
    from cte_dask.engine.lazy import score
    from cte_dask.evaluation.evaluate_run import evaluate_run
    from cte_dask.evaluation.result import Evaluation
    from cte_dask.models import ModelBank, ModelSpec, load_bank
    from cte_dask.perturb import Perturbation
    from cte_dask.ranking.calibration.calibrate import calibrate
    from cte_dask.ranking.calibration.strengths import Calibration
    from cte_dask.ranking.rank import Ranking, rank
    from cte_dask.results.dataset import read_scores
    from cte_dask.results.store import Scores, open_scores
    from cte_dask.scoring.experiment import Experiment
    from cte_dask.scoring.resolve import resolve
    from cte_dask.volume import Volume, open_volume

# Feature maps are megabytes: on huge pages torch spends no time on faulting their memory in. It
# reads this at its first allocation; worker processes inherit it.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Evaluation",
    "Experiment",
    "ModelBank",
    "ModelSpec",
    "Perturbation",
    "Plan",
    "Ranking",
    "Scores",
    "Volume",
    "calibrate",
    "evaluate_run",
    "load_bank",
    "open_scores",
    "open_volume",
    "plan",
    "rank",
    "read_scores",
    "resolve",
    "score",
]

_HOMES = {
    "Calibration": "ranking.calibration.strengths",
    "Evaluation": "evaluation.result",
    "Experiment": "scoring.experiment",
    "ModelBank": "models",
    "ModelSpec": "models",
    "Perturbation": "perturb",
    "Plan": "engine.cost",
    "Ranking": "ranking.rank",
    "Scores": "results.store",
    "Volume": "volume",
    "calibrate": "ranking.calibration.calibrate",
    "evaluate_run": "evaluation.evaluate_run",
    "load_bank": "models",
    "open_scores": "results.store",
    "open_volume": "volume",
    "plan": "engine.cost",
    "rank": "ranking.rank",
    "read_scores": "results.dataset",
    "resolve": "scoring.resolve",
    "score": "engine.lazy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cte_dask' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cte_dask.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
