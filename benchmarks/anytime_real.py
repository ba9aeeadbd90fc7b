"""Compare anytime ranking with the exhaustive one on a real target: same answer, how many blocks.

    python examples/make_em_target.py epfl.zarr
    python examples/train_bank.py mitochondria --out mito_bank
    python benchmarks/anytime_real.py epfl.zarr --bank mito_bank/bank.yaml --name anytime-epfl

Every block is scored once. The race is then run on these scores for many seeds, each an order of
the blocks of its own, under every score; and a few whole anytime runs, from reading the target to
``ranking.json``, are made with seeds of their own, whose noise differs too. Writes
``benchmarks/results/<name>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cte_dask.consistency.score_names import ScoreName
from cte_dask.engine.anytime import Anytime, block_tiles
from cte_dask.engine.racing.goal import Goal
from cte_dask.ranking.frozen import FrozenTransfer
from cte_dask.ranking.outcome import Outcome
from cte_dask.ranking.rank_target import rank_target
from cte_dask.report.terminal.progress import shown_on
from cte_dask.results.run_folder import RunFolder
from cte_dask.scoring.settings import TargetOptions

RESULTS = Path(__file__).resolve().parent / "results"


def medians(outcome: Outcome, score: str) -> dict[str, float]:
    """Return what ranks each model that may win over all blocks, the best first."""
    able = [m for m in outcome.ranking.models if m.verdict is not None and not m.degenerate]
    if score == "transfer":
        values = {m.name: m.verdict.transfer.value for m in able if m.verdict is not None}
    else:
        values = {m.name: m.scores[score].cte for m in able}
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def replayed(outcome: Outcome, run: str, score: str, seeds: Iterable[int]) -> dict[str, Any]:
    """Run the race on stored scores, once a seed."""
    scores, known = RunFolder(run).open_scores(), medians(outcome, score)
    best = next(iter(known))
    answers, blocks, decided = [], [], []
    for seed in seeds:
        values = FrozenTransfer(len(outcome.experiment.candidates)) if score == "transfer" else None
        race = Anytime(replace(outcome.experiment, seed=seed), scores, Goal(), values=values)
        if values is None:
            race.layout = replace(race.layout, primary=ScoreName.parse(score))
        assert not race.jobs(1), "every block is stored"
        # once every block is read, medians are exact, as in ranking.json; else this changes nothing
        decision = race.decision()
        decision = decision.led_by(list(known)) if decision.stopped == "all blocks" else decision
        answers.append(decision.best[0])
        blocks.append(decision.blocks)
        decided.append(decision.stopped == "decided")
    return {
        "exhaustive": known,
        "agree": sum(a == best for a in answers),
        "agree_within_epsilon": sum(known[a] >= known[best] - Goal().epsilon for a in answers),
        "of": len(answers),
        "decided": sum(decided),
        "others": sorted({a for a in answers if a != best}),
        "blocks": blocks,
        "median_blocks": float(np.median(blocks)),
    }


def tiles(run: str, score: str) -> dict[str, str]:
    """Return the consistencies of each model's tiles, in the tiles' order, as text."""
    scores = RunFolder(run).open_scores()
    layout = replace(scores.layout, primary=ScoreName.parse(score))
    everybody = np.ones(len(layout.models), bool)
    blocks = [block_tiles(layout, scores.block(i), everybody) for i in range(len(layout.blocks))]
    rows = np.concatenate([b.values for b in blocks], axis=1)
    return {n: " ".join(f"{v:.4f}" for v in r) for n, r in zip(layout.models, rows, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--bank", required=True)
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--run", help="folder of the exhaustive run, to keep; resumed if there")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--whole-runs", type=int, default=3, help="anytime runs from end to end")
    options = parser.parse_args()
    settings: dict[str, Any] = {
        "perturbations": ("dropout:0.2",),
        "metrics": ("nhd", "ei"),
        "block": (1, 1, 1),
        "batch": 1,
        "rank_by": "transfer",
    }
    target = TargetOptions(options.target)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or f"{folder}/run"
        outcome = rank_target(
            target,
            options.bank,
            run,
            exhaustive=True,
            resume=Path(run).exists(),
            progress=shown_on(Console()),
            **settings,
        )
        names = list(outcome.ranking.models[0].scores)
        seeds = range(1, options.seeds + 1)
        races = {n: replayed(outcome, run, n, seeds) for n in ("transfer", *names)}
        stored = {name: tiles(run, name) for name in names}
        runs = []
        for seed in range(1, options.whole_runs + 1):
            race = rank_target(
                target,
                options.bank,
                f"{folder}/{seed}",
                until="decided",
                seed=seed,
                progress=shown_on(Console()),
                **settings,
            )
            keys = ("verdict", "decided", "proven", "leading", "blocks", "dropped")
            runs.append({"seed": seed, **{k: race.result[k] for k in keys}})
    record = {
        "date": date.today().isoformat(),
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()},
        "versions": outcome.result["versions"],
        "target": {**outcome.result["target"], "url": Path(options.target).name},
        "tile": list(outcome.experiment.grid.tile),
        "blocks": len(outcome.experiment.blocks),
        "primary": outcome.ranking.primary,
        "models": outcome.result["models"],
        "races": races,
        "whole_runs": runs,
        "tile_counts": list(outcome.experiment.grid.counts),
        "tiles": stored,
    }
    path = RESULTS / f"{options.name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({"races": races, "whole_runs": runs}, indent=1))


if __name__ == "__main__":
    main()
