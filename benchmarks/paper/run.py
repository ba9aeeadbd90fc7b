"""Repeat the paper's experiment: train the banks, rank them on every target, compare with labels.

    python benchmarks/paper/run.py --cache DIR [--quick | --sweep | --border] [--out RESULTS]

Every bank is ranked on every target of its task. A model that was trained on the target's own
domain is scored as the others, but marked and left out of that target's correlations. Each target
gives one JSON in ``OUT/paper`` (``-quick``, ``-sweep``, ``-border``); a target whose record is
there, made of the same bank, recipe and data, is not run again. Tables and figures are written anew
after each.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import write_figures
from study import Plan, Task, study
from tables import write_tables
from targets import TARGETS, make_targets
from train import train_banks

RESULTS = Path(__file__).resolve().parents[1] / "results"

# Nuclei as instances are the same runs: one prediction gives the foregrounds and the instances.
WATERSHED = {"name": "distance_watershed"}
SEMANTIC, ALL = ("nhd", "ei"), ("nhd", "ei", "vrand")
TASKS = {
    task.name: task
    for task in (
        Task("nuclei", "n_", "nuclei", ALL, WATERSHED),
        Task("mitochondria", "m_", "mitochondria", SEMANTIC),
        Task("nuclei-zoo", "n_", "nuclei", ALL, WATERSHED),
        Task("mitochondria-zoo", "m_", "mitochondria", SEMANTIC),
    )
}
DEFAULT = ("nuclei", "mitochondria")


def main() -> None:
    options = _options()
    os.nice(options.nice)
    plans = {"quick": Plan.quick, "sweep": Plan.sweep, "border": Plan.bordered}
    name = next((name for name in plans if getattr(options, name)), "")
    suffix, plan = f"-{name}" if name else "", plans.get(name, Plan.full)()
    out = options.out / f"paper{suffix}"
    cache = options.cache.expanduser()
    banks = _banks(options, cache)
    images = make_targets(cache, targets=_targets(options))
    begun = time.monotonic()
    records: list[dict[str, Any]] = []
    for task in (TASKS[name] for name in options.task or DEFAULT if name in banks):
        for image in (path for name, path in images.items() if _belongs(name, task, options)):
            record = study(
                task,
                plan,
                banks[task.name],
                image,
                runs=cache / f"runs{suffix}",
                out=out,
                workers=options.workers,
                tell=lambda line: print(line, flush=True),
            )
            records.append(record)
            write_tables(out, records)
            write_figures(out, task.name, [r for r in records if r["task"] == task.name])
            print(f"{(time.monotonic() - begun) / 60:.1f} min so far", flush=True)
    print(out / "tables.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="of weights, targets and runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="short trainings, 12 tiles a target")
    mode.add_argument("--sweep", action="store_true", help="every strength, on 16 tiles a target")
    mode.add_argument("--border", action="store_true", help="V^Rand without borders of instances")
    parser.add_argument("--task", action="append", choices=sorted(TASKS))
    parser.add_argument("--target", action="append", choices=[t.name for t in TARGETS])
    parser.add_argument("--bank", type=Path, help="bank.yaml to use instead of training any")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--nice", type=int, default=10)
    return parser.parse_args()


def _banks(options: argparse.Namespace, cache: Path) -> dict[str, Path]:
    if options.bank is None:
        return train_banks(cache, options.quick)
    if not options.task:
        raise SystemExit("--bank needs --task: which task is the bank for?")
    return dict.fromkeys(options.task, options.bank.resolve())


def _targets(options: argparse.Namespace) -> tuple[Any, ...]:
    wanted: Sequence[str] = options.target or [t.name for t in TARGETS]
    return tuple(t for t in TARGETS if t.name in wanted)


def _belongs(name: str, task: Task, options: argparse.Namespace) -> bool:
    """Tell whether a target is one of a task; volumes (``v_``) only when they are asked for."""
    label = next(t.labels for t in TARGETS if t.name == name)
    named = name in (options.target or ())
    return label == task.labels and (named or name.startswith(task.prefix))


if __name__ == "__main__":
    main()
