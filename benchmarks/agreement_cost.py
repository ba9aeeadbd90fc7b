"""What agreement costs beside the passes: share of processor time in a run of twenty models.

    python benchmarks/agreement_cost.py [--data PACK.npz] [--tiles 8]

The demonstration's nine networks stand in the bank two or three times, at other thresholds, since
the pairs of masks cost the same whatever made them. The time in `BankOverlaps` (keeping the bits,
counting the pairs) is set beside that of the whole of `score_block`, in one thread and one process;
forward passes are counted with and without agreement. Writes ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cte_dask.demo import bank_path
from cte_dask.inference.passes import Passes
from cte_dask.models import load_bank
from cte_dask.scoring.bank_overlaps import BankOverlaps
from cte_dask.scoring.experiment import versions
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.volume import open_volume

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
RESULT = REPOSITORY / "benchmarks" / "results" / "agreement-cost.json"
MODELS = 20
THRESHOLDS = (0.5, 0.4, 0.6)


def bank_of_twenty(folder: Path) -> Any:
    document = yaml.safe_load(bank_path().read_text())
    models = {}
    for threshold in THRESHOLDS:
        for name, model in document["models"].items():
            source = str((bank_path().parent / model["source"]).resolve())
            output = model.get("output", {})
            models[f"{name}-{threshold:g}"] = {
                **model,
                "source": source,
                "output": {**output, "threshold": threshold},
            }
    document["models"] = dict(list(models.items())[:MODELS])
    path = folder / "bank.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_bank(str(path))


class Clock:
    """Adds up the processor time spent in some functions, and counts their calls."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.process_time() - began
                self.calls += 1

        return timed

    def counting(self, generator: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def counted(*arguments: Any, **named: Any) -> Iterator[Any]:
            for item in generator(*arguments, **named):
                self.calls += 1
                yield item

        return counted


def measured(volume: Any, bank: Any, metrics: tuple[str, ...]) -> dict[str, Any]:
    experiment = resolve(
        volume,
        bank,
        perturbations=("dropout:0.2",),
        metrics=metrics,
        tile=(1, 256, 256),
        block=(1, 1, 1),
        device="cpu",
    )
    score_block(experiment, 0)  # compiles and warms
    pairs, passes, whole = Clock(), Clock(), Clock()
    real = BankOverlaps.keep, BankOverlaps.rows, Passes.run
    BankOverlaps.keep = pairs.around(real[0])  # type: ignore[method-assign]
    BankOverlaps.rows = pairs.around(real[1])  # type: ignore[method-assign]
    Passes.run = passes.counting(real[2])  # type: ignore[method-assign]
    try:
        for index in range(len(experiment.grid)):
            whole.around(score_block)(experiment, index)
    finally:
        BankOverlaps.keep, BankOverlaps.rows, Passes.run = real  # type: ignore[method-assign]
    return {
        "metrics": list(metrics),
        "tiles": len(experiment.grid),
        "forward_passes": passes.calls,
        "cpu_s": round(whole.seconds, 3),
        "agreement_cpu_s": round(pairs.seconds, 4),
        "agreement_share": round(pairs.seconds / whole.seconds, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA / "n_dsb_b256_fibro.npz")
    parser.add_argument("--tiles", type=int, default=8)
    options = parser.parse_args()
    with np.load(options.data, allow_pickle=False) as pack:
        raw = pack["raw"][pack["split"] == "test"][: options.tiles].astype(np.float32)
    volume = open_volume(raw, axes="zyx")
    with tempfile.TemporaryDirectory() as folder:
        bank = bank_of_twenty(Path(folder))
        runs = [measured(volume, bank, m) for m in (("nhd",), ("nhd", "agreement", "consensus"))]
    if runs[0]["forward_passes"] != runs[1]["forward_passes"]:
        raise SystemExit("agreement changed the number of forward passes")
    record = {"target": options.data.name, "models": MODELS, "runs": runs, "versions": versions()}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
