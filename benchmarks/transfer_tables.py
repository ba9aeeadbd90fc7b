"""Tables of ``transfer.py``: by bank and over all targets, with intervals over targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cte_dask.ranking.bootstrap import interval

__all__ = ["summary_of", "write"]

QUALITIES = "tau", "pairs", "loss"
Record = Mapping[str, Any]


def write(
    result: Path, records: Sequence[Record], versions: Mapping[str, str], *, apart: float
) -> None:
    """Write all records as JSON, and their summaries as tables.

    Parameters
    ----------
    result
        The files, without their suffix.
    records
        What `transfer.py` says of each target.
    versions
        Of the packages.
    apart
        Difference of F1 above which an order counts.
    """
    groups = _groups(records)
    summaries = {name: summary_of(group) for name, group in groups.items()}
    content = {"summaries": summaries, "records": list(records), "versions": dict(versions)}
    result.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    head = (
        "# The transfer score on real targets\n\n"
        "Means over targets with the 95 % interval of a bootstrap over them. Pairs: models more "
        f"than {apart} of F1 (of instances: mAP) apart that are in order. Loss: of the best less "
        "of the pick.\n"
    )
    parts = [head, *(_table(n, summaries[n], groups[n]) for n in groups)]
    result.with_suffix(".md").write_text("\n".join(parts))


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(f"{record['of']}, all banks", []).append(record)
        groups.setdefault(f"{record['of']}, {record['task']}", []).append(record)
    return groups


def summary_of(records: Sequence[Record]) -> dict[str, Any]:
    """Return means over targets, and how far the transfer score is ahead.

    Parameters
    ----------
    records
        Of one kind.
    """
    names = [n for n in records[0]["scores"] if all(n in r["scores"] for r in records)]
    return {
        "targets": len(records),
        "scores": {n: _means(records, lambda r, n=n: r["scores"][n]) for n in names},
        "gain_in_tau": _gain(records),
        "estimate_error": _mean_of([r["estimate_error"] for r in records]),
        "pick_estimate_error": _mean_of([abs(r["pick_estimate_error"]) for r in records]),
        "banks": {size: _means_of_banks(records, size) for size in ("3", "5", "8")},
    }


def _means_of_banks(records: Sequence[Record], size: str) -> dict[str, Any]:
    banks = [r["banks"][size] for r in records if size in r.get("banks", {})]
    names = [n for n in banks[0] if all(n in b for b in banks)] if banks else ()
    return {n: {k: float(np.nanmean([b[n][k] for b in banks])) for k in QUALITIES} for n in names}


def _means(records: Sequence[Record], of: Callable[..., Any]) -> dict[str, Any]:
    return {k: _mean_of([of(r)[k] for r in records]) for k in QUALITIES}


def _mean_of(values: Sequence[float]) -> dict[str, float]:
    """Return the mean over targets, with the interval of a bootstrap over them."""
    numbers = np.array(values, np.float64)
    rng = np.random.default_rng(0)
    drawn = numbers[rng.integers(len(numbers), size=(2000, len(numbers)))]
    with np.errstate(all="ignore"):
        some = drawn[~np.isnan(drawn).all(axis=1)]
        low, high = interval(np.nanmean(some, axis=1)) if len(some) else (np.nan, np.nan)
    known = numbers[~np.isnan(numbers)]
    return {"mean": float(known.mean()) if len(known) else float("nan"), "low": low, "high": high}


def _gain(records: Sequence[Record]) -> dict[str, Any]:
    tau = {
        n: np.array([r["scores"][n]["tau"] for r in records])
        for n in ("transfer", "dropout", "noise")
    }
    better = max(("dropout", "noise"), key=lambda n: np.nanmean(tau[n]))
    return {"over": better, **_mean_of(list(tau["transfer"] - tau[better]))}


def _shown(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _table(name: str, summary: Mapping[str, Any], records: Sequence[Record]) -> str:
    gain = summary["gain_in_tau"]
    lines = [
        f"\n## {name[0].upper()}{name[1:]}: {summary['targets']} targets\n",
        "| score | Kendall's τ | pairs | loss |",
        "|---|---|---|---|",
    ]
    for score, quality in summary["scores"].items():
        lines.append(f"| {score} | {' | '.join(_shown(quality[k]) for k in QUALITIES)} |")
    lines.append(
        f"\nGain in τ over {gain['over']} alone: {_shown(gain)}. Estimated against true: "
        f"{_shown(summary['estimate_error'])} on average, {_shown(summary['pick_estimate_error'])} "
        "of the first pick."
    )
    if not name.endswith("all banks"):
        lines += _targets(records)
        lines += _banks(summary)
    return "\n".join(lines) + "\n"


def _targets(records: Sequence[Record]) -> list[str]:
    lines = [
        "\n| target | models | true | best | pick | τ | pairs | est. error | none fits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        q, values = r["scores"]["transfer"], list(r["models"].values())
        lines.append(
            f"| {r['target']} | {len(values)} | {min(values):.2f}–{max(values):.2f} | "
            f"{r['best']:.2f} | {r['best'] - q['loss']:.2f} | {q['tau']:.2f} | {q['pairs']:.2f} | "
            f"{r['estimate_error']:.3f} | {'said' if r['warning'] else '–'} |"
        )
    return lines


def _banks(summary: Mapping[str, Any]) -> list[str]:
    sizes = [size for size, bank in summary["banks"].items() if bank]
    if not sizes:
        return []
    heading = " | ".join(f"{size} models" for size in sizes)
    lines = ["\nRandom smaller banks, means over targets (τ / pairs / loss):\n"]
    lines += [f"| score | {heading} |", "|---" * (len(sizes) + 1) + "|"]
    for name in summary["banks"][sizes[0]]:
        cells = [summary["banks"][s][name] for s in sizes if name in summary["banks"][s]]
        texts = (f"{c['tau']:.2f} / {c['pairs']:.2f} / {c['loss']:.3f}" for c in cells)
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return lines
