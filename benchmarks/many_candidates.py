"""How much of a run over every block a race of two hundred candidates takes, in simulation.

    python benchmarks/many_candidates.py [--banks 1000]

Fifty models at four scales each are 200 candidates. Their consistencies are those of real models on
EPFL's mitochondria (`anytime-epfl.json`), moved as `benchmarks.race_banks.resampled_bank` does, on
2,000 blocks. Counted are the passes, a model and block each, until the best candidate is decided,
and how often that was not the best one. Writes ``benchmarks/results/many-candidates.json``.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from measuring import RESULTS, save
from race_banks import Bank, real_tiles, resampled_bank

from cte_dask.engine.racing import Race, rounds
from cte_dask.engine.racing.race import DELTA, EPSILON

CANDIDATES, BLOCKS = 200, 2000
BUDGET = 400
"""Blocks after which a race that is not decided is given up."""


def raced(bank: Bank, seed: int) -> tuple[Race, int]:
    """Return the race when it is decided or given up, and the passes until then."""
    race, passes = Race(CANDIDATES, bank.tiles), 0
    for drawn in rounds(bank.grid, seed=seed):
        passes += int(race.active.sum()) * len(drawn.blocks)
        race.observe(drawn, [bank.block(b) for b in drawn.blocks])
        if race.proven is not None or race.blocks >= BUDGET:
            break
    return race, passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--banks", type=int, default=1000)
    banks, scores = parser.parse_args().banks, real_tiles(RESULTS / "anytime-epfl.json")
    shares: list[float] = []
    blocks: list[int] = []
    wrong = undecided = 0
    for seed in range(banks):
        rng = np.random.default_rng(seed)
        bank = resampled_bank(rng, scores[seed % len(scores)], models=CANDIDATES)
        race, passes = raced(bank, seed)
        wrong += int(bank.medians[race.standing[0]] < bank.medians.max() - EPSILON)
        undecided += race.proven is None
        shares.append(passes / (CANDIDATES * BLOCKS))
        blocks.append(race.blocks)
    record: dict[str, Any] = {
        "banks": banks,
        "candidates": CANDIDATES,
        "delta": DELTA,
        "wrong": wrong,
        "undecided": undecided,
        "passes": quantiles(shares),
        "blocks": quantiles(blocks),
    }
    save("many-candidates", record)
    print(json.dumps(record, indent=1))


def quantiles(values: list[float] | list[int]) -> dict[str, float]:
    points = {"median": 0.5, "of three in four": 0.75, "of nine in ten": 0.9}
    return {name: round(float(np.quantile(values, q)), 5) for name, q in points.items()}


if __name__ == "__main__":
    main()
