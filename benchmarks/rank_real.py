"""Rank a bank on a labelled target and record CTE beside F1: what the ranking was worth.

    python benchmarks/rank_real.py epfl.zarr --labels epfl.zarr/labels/mitochondria \\
        --bank mito_bank/bank.yaml --name epfl-mitochondria

The labels are used after the ranking, for evaluation only. Writes
``benchmarks/results/<name>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from cte_dask.cli.demo import median_f1
from cte_dask.evaluation.rank_correlation import rank_correlation
from cte_dask.ranking.outcome import Outcome
from cte_dask.ranking.rank_target import rank_target
from cte_dask.report.terminal.progress import shown_on
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import open_volume

RESULTS = Path(__file__).resolve().parent / "results"


def evaluated(outcome: Outcome, labels: str) -> dict[str, Any]:
    truth = open_volume(labels)
    performance = median_f1(outcome.experiment, truth.read((0, 0, 0), truth.shape))
    ranked = [m for m in outcome.ranking.models if m.rank is not None]
    agreement = {}
    for score in ranked[0].scores:
        values = [m.scores[score].cte for m in ranked]
        correlation = rank_correlation(values, [performance[m.name] for m in ranked])
        agreement[score] = {
            "kendall": correlation.kendall,
            "spearman": correlation.spearman,
            "pearson": correlation.pearson,
            "p_kendall": correlation.p_kendall,
            "n": correlation.n,
        }
    return {"median_f1": performance, "agreement": agreement}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--bank", required=True)
    parser.add_argument("--name", required=True, help="of the result file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        outcome = rank_target(
            TargetOptions(options.target),
            options.bank,
            f"{folder}/run",
            metrics=("nhd", "ei"),
            progress=shown_on(Console()),
        )
        seconds = time.monotonic() - began
    experiment = outcome.experiment.to_dict()
    result = outcome.result
    target = {**result["target"], "url": Path(options.target).name}
    record = {
        "date": date.today().isoformat(),
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()},
        "versions": result["versions"],
        "target": target,
        "tile": experiment["tile"],
        "seed": result["seed"],
        "tiles": experiment["tiles"],
        "seconds_on_a_shared_machine": round(seconds, 1),
        "models": result["models"],
        **evaluated(outcome, options.labels),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{options.name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(
        json.dumps({"median_f1": record["median_f1"], "agreement": record["agreement"]}, indent=1)
    )


if __name__ == "__main__":
    main()
