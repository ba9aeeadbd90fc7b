"""Calibrate the demonstration's bank on labelled targets, and look at what the choice was worth.

    CTE_DATA=path/to/npz python benchmarks/calibrate_demo.py [--only NAME]… [--kind KIND]…

Labels are used after the choice, for evaluation only. A target reaches the promise if the Kendall
tau of the ranking at the chosen strength against the true F1 is within 0.1 of the best tau of the
grid. Each target is added to ``benchmarks/results/calibration-demo.json`` as it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from cte_dask.cli.demo import median_f1
from cte_dask.consistency.score_names import ScoreName
from cte_dask.demo import LABELS, bank_path, write_demo_target
from cte_dask.evaluation.rank_correlation import rank_correlation
from cte_dask.models import load_bank
from cte_dask.ranking.calibration.calibrate import calibrate
from cte_dask.ranking.calibration.numbers import calibration_dict
from cte_dask.ranking.calibration.strengths import Calibration
from cte_dask.scoring.experiment import versions
from cte_dask.volume import open_volume

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
RESULT = REPOSITORY / "benchmarks" / "results" / "calibration-demo.json"
SEEN = ("n_dsb_b256_fibro", "n_dsb_a256_mixed", "n_dsb_d2_blurry")  # while the way was settled
UNSEEN = ("n_dsb_c256_clump", "n_dsb_d3_highmag", "n_dsb_e360_large", "n_mnf_rpe1")
REAL = (*SEEN, *UNSEEN)
MADE = "nuclei, BBBC038"
DEFAULTS = {"dropout": "dropout:0.2", "gaussian": "gaussian:0.1"}
IMAGES, TILES, WITHIN = 64, 64, 0.1


def real_target(name: str) -> tuple[Any, np.ndarray]:
    """The images of the test split, 64 at most, each scaled by its 1 and 99.8 percentiles."""
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as pack:
        test = np.flatnonzero(pack["split"] == "test")[:IMAGES]
        raw, truth = pack["raw"][test], pack["label"][test]
    low, high = np.percentile(raw, (1, 99.8), axis=(1, 2), keepdims=True)
    scaled = ((raw - low) / np.maximum(high - low, 1)).astype(np.float32)
    return open_volume(scaled, axes="zyx"), truth


def made_target() -> tuple[Any, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        write_demo_target(Path(folder) / "target.zarr")
        image = open_volume(str(Path(folder) / "target.zarr"))
        truth = open_volume(str(Path(folder) / "target.zarr" / "labels" / LABELS))
        origin = (0, 0, 0)
        return (
            open_volume(image.read(origin, image.shape), axes="zyx"),
            truth.read(origin, truth.shape),
        )


def taus(calibration: Calibration, performance: dict[str, float]) -> list[dict[str, Any]]:
    """Tau of the ranking (flagged models last, as a user gets it) and of the bare CTE."""
    rows = []
    for strength in calibration.strengths:
        models = [m for m in strength.models if m.rank is not None]
        truth = [performance[m.name] for m in models]
        score = str(ScoreName(calibration.metric, strength.perturbation))
        rows.append(
            {
                "perturbation": strength.perturbation,
                "kendall": rank_correlation([-m.rank for m in models], truth).kendall,
                "kendall_bare": rank_correlation(
                    [m.scores[score].cte for m in models], truth
                ).kendall,
            }
        )
    return rows


def worth(kind: str, rows: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """What the choice was worth beside the best, the average and the default of the grid."""
    correlations = [r["kendall"] for r in rows]
    default = next(i for i, r in enumerate(rows) if r["perturbation"] == DEFAULTS[kind])
    return {
        "kendall_chosen": correlations[index],
        "kendall_best": max(correlations),
        "kendall_mean": float(np.mean(correlations)),
        "kendall_default": correlations[default],
        "within": correlations[index] >= max(correlations) - WITHIN,
        "default_within": correlations[default] >= max(correlations) - WITHIN,
        "strengths_within": sum(t >= max(correlations) - WITHIN for t in correlations),
    }


def evaluated(volume: Any, truth: np.ndarray, kinds: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {"shape": list(volume.shape)}
    for kind in kinds:
        began = time.monotonic()
        calibration = calibrate(
            volume, load_bank(str(bank_path())), kind=kind, pilot_tiles=TILES, tell=print
        )
        seconds = time.monotonic() - began
        if "median_f1" not in record:
            record["median_f1"] = median_f1(calibration.experiment, truth)
        rows = taus(calibration, record["median_f1"])
        record[kind] = {
            "chosen": calibration.chosen.perturbation,
            "pilot_tiles": calibration.n_pilot,
            "repeats": calibration.experiment.repeats,
            **worth(kind, rows, calibration.index),
            "kendall": rows,
            "seconds_on_a_shared_machine": round(seconds, 1),
            "calibration": calibration_dict(calibration),
        }
        print(kind, {k: v for k, v in record[kind].items() if not isinstance(v, list | dict)})
        for row, s in zip(rows, calibration.strengths, strict=True):
            print(
                f"  {row['perturbation']:15} W {s.agreement:.3f} ratio {s.spread.ratio:8.2f} "
                f"n {s.n_tiles} tau {row['kendall']:.3f} bare {row['kendall_bare']:.3f}"
            )
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=(*REAL, MADE))
    parser.add_argument("--kind", action="append", choices=sorted(DEFAULTS))
    options = parser.parse_args()
    for name in options.only or (*REAL, MADE):
        print(name, flush=True)
        target = real_target(name) if name in REAL else made_target()
        save(name, evaluated(*target, options.kind or list(DEFAULTS)))


def save(name: str, entry: dict[str, Any]) -> None:
    before = json.loads(RESULT.read_text())["targets"] if RESULT.exists() else {}
    record = {
        "date": date.today().isoformat(),
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()},
        "versions": versions(),
        "within": WITHIN,
        "targets": {**before, name: {**before.get(name, {}), **entry}},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
