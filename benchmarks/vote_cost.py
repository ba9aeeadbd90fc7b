"""What the bank's votes cost: share of processor time in a run of twenty models, and the fit.

    python benchmarks/vote_cost.py [--data PACK.npz] [--tiles 8]

The demonstration's nine networks stand in the bank two or three times, at other thresholds, since
votes cost the same whatever made them. The time in `BankVotes` (keeping the bits, counting the
patterns) is set beside that of the whole of `score_block`, in one thread and one process; forward
passes are counted with and without. Then thirty models' votes on 100,000 tiles of 200 patterns are
fitted, each model left out once. Writes ``benchmarks/results``.
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

from cte_dask.consistency.vote_patterns import VoteTables
from cte_dask.demo import bank_path
from cte_dask.inference.passes import Passes
from cte_dask.models import load_bank
from cte_dask.ranking.ballot import ballot_of
from cte_dask.ranking.latent_truth import fit_truth
from cte_dask.scoring.bank_votes import BankVotes
from cte_dask.scoring.experiment import versions
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.volume import open_volume

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
RESULT = REPOSITORY / "benchmarks" / "results" / "vote-cost.json"
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


def measured(volume: Any, bank: Any) -> dict[str, Any]:
    experiment = resolve(
        volume,
        bank,
        perturbations=("dropout:0.2",),
        tile=(1, 256, 256),
        block=(1, 1, 1),
        device="cpu",
    )
    score_block(experiment, 0)  # compiles and warms
    votes, passes, everything = Clock(), Clock(), Clock()
    real = BankVotes.keep, BankVotes.tables, Passes.run
    BankVotes.keep = votes.around(real[0])  # type: ignore[method-assign]
    BankVotes.tables = votes.around(real[1])  # type: ignore[method-assign]
    Passes.run = passes.counting(real[2])  # type: ignore[method-assign]
    try:
        tables = [
            everything.around(score_block)(experiment, index).votes
            for index in range(len(experiment.grid))
        ]
    finally:
        BankVotes.keep, BankVotes.tables, Passes.run = real  # type: ignore[method-assign]
    return {
        "models": MODELS,
        "tiles": len(experiment.grid),
        "forward_passes": passes.calls,
        "forward_passes_of_plain_dropout": 2 * MODELS * len(experiment.grid),
        "patterns_a_tile": [int(t.lengths[0]) for t in tables],
        "cpu_s": round(everything.seconds, 3),
        "votes_cpu_s": round(votes.seconds, 4),
        "votes_share": round(votes.seconds / everything.seconds, 5),
    }


def fit_cost(models: int = 30, tiles: int = 100_000, patterns: int = 200) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.6, 0.95, models), rng.uniform(0.01, 0.1, models)
    truth = rng.random(150_000) < 0.3
    pool = np.zeros(len(truth), np.uint64)
    for model in range(models):
        vote = rng.random(len(truth)) < np.where(truth, a[model], b[model])
        pool |= vote.astype(np.uint64) << np.uint64(model)
    words = np.sort(rng.choice(np.unique(pool), size=(tiles, patterns)), axis=1)
    tables = VoteTables(
        ends=np.arange(1, tiles + 1) * patterns,
        patterns=words.reshape(-1, 1),
        counts=rng.integers(1, 500, tiles * patterns),
        voted=np.ones((tiles, models), bool),
        step=np.ones(tiles, np.int64),
    )
    began = time.process_time()
    ballot = ballot_of(tables)
    merged = time.process_time()
    fit = fit_truth(ballot, np.ones(models, bool))
    fit.f1(ballot)
    return {
        "models": models,
        "tiles": tiles,
        "rows": tiles * patterns,
        "distinct_patterns": len(ballot.votes),
        "merging_cpu_s": round(merged - began, 2),
        "fit_left_one_out_cpu_s": round(time.process_time() - merged, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA / "n_dsb_b256_fibro.npz")
    parser.add_argument("--tiles", type=int, default=8)
    options = parser.parse_args()
    with np.load(options.data, allow_pickle=False) as pack:
        raw = pack["raw"][pack["split"] == "test"][: options.tiles].astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        run = measured(open_volume(raw, axes="zyx"), bank_of_twenty(Path(folder)))
    record = {"target": options.data.name, "run": run, "fit": fit_cost(), "versions": versions()}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
