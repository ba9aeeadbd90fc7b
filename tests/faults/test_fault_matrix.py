"""Each thing that a model can do to a run, in this process and on workers: it is named, no other.

The others' scores are the same bits as without it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import dask
import numpy as np
import processes
import pytest
import yaml
from conftest import blobs
from troubled import cte

from cte_dask.ranking.rank_target import rank_target
from cte_dask.results.store import open_scores
from cte_dask.scoring.settings import TargetOptions
from cte_dask.volume import write_ome_zarr

OTHERS = ("plain", "frozen")
OPTIONS = {
    "tile": (1, 32, 32),
    "block": (1, 2, 2),
    "perturbations": ("gaussian:0.1",),
}
LATE = {
    "Raising": "RuntimeError: too real for me",
    "Shrinking": "not maps of the same extent",
    "LateBroken": "NaN in a prediction",
    "Leaving": "its code called sys.exit(0)",
    "Interrupting": "its code raised KeyboardInterrupt",
    "Sleeping": "it did not come back within 10 s from one batch",
    "Spinning": "it did not come back within 10 s from one batch",
}
"""What is told of a network that fails on every tile."""
UNHARMED = "Talking", "Meddling", "Leaking"
UNSTEADY = "drifting", "random"
DEADLY = "Crashing", "Killing"
DEADLY_AT_ONCE = {
    "crashing_at_once": "SIGSEGV",
    "killing_at_once": "exit code 7",
}
AT_ONCE = {**DEADLY_AT_ONCE, "sleeping_at_once": "within 30 s"}
HANGING = "Sleeping", "Spinning", "sleeping_at_once"
LIMIT = 10.0
"""Seconds for a batch, and a third of what a trial may take: a busy machine needs some, too."""
LONGEST = 120
"""Seconds that a run of eight tiles may take, limits and new workers included."""


def entry(kind: str) -> dict[str, object]:
    late = kind[0].isupper()
    return {
        "format": "python",
        "source": f"unruly_networks:{'late' if late else kind}",
        **({"arguments": {"kind": kind}} if late else {}),
        "trust": True,
        "halo": {"y": 8, "x": 8},
        "multiple": {"y": 2, "x": 2},
        "axes": "yx",
    }


def write_bank(path: Path, *kinds: str) -> str:
    models = {kind: entry(kind) for kind in kinds}
    path.write_text(yaml.safe_dump({"schema": "cte-bank/1", "models": models}))
    return str(path)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("matrix") / "target.zarr"
    write_ome_zarr(
        path, blobs((2, 64, 64)), axes="zyx", voxel_size_nm=(9.0, 9.0, 9.0), chunks=(1, 64, 64)
    )
    return str(path)


def ranked(target: str, folder: Path, cluster: str, *kinds: str) -> dict:
    began = time.monotonic()
    bank = write_bank(folder / "bank.yaml", *kinds)
    out, options = str(folder / "RUN"), dict(OPTIONS)
    if any(kind in HANGING for kind in kinds):
        options["time_limit"] = LIMIT
    with processes.quick_workers(), dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        rank_target(TargetOptions(target), bank, out, cluster=cluster, workers=1, **options)
    assert time.monotonic() - began < LONGEST
    return json.loads(Path(out, "ranking.json").read_text())


def scores_of(folder: Path) -> dict[str, np.ndarray]:
    scores = open_scores(str(folder / "RUN" / "scores.zarr"))
    blocks = [scores.block(i) for i in range(len(scores.layout.blocks))]
    names = scores.layout.models
    return {
        name: np.concatenate([b.statistics["n_union"][names.index(name)] for b in blocks], axis=-1)
        for name in OTHERS
    }


@pytest.fixture(scope="module")
def undisturbed(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    ranked(target, folder, "none", *OTHERS)
    return scores_of(folder)


def told(result: dict, out: Path, kind: str) -> str:
    """Return all that a run says of a model."""
    [model] = [m for m in result["models"] if m["name"] == kind]
    scores = open_scores(str(out / "scores.zarr"))
    failures = [scores.failures(i).get(kind) for i in range(len(scores.layout.blocks))]
    return json.dumps([model, failures])


WANTED = {
    **LATE,
    **dict.fromkeys(UNHARMED, '"flags": []'),
    **dict.fromkeys(UNSTEADY, '"flags": ["not deterministic"]'),
    **dict.fromkeys(DEADLY, "the worker process died whenever it was tried"),
    **AT_ONCE,
}


@pytest.mark.parametrize("cluster", ["none", "local"])
@pytest.mark.parametrize("kind", WANTED)
def test_the_culprit_is_named_and_the_others_have_their_scores(
    kind, cluster, target, undisturbed, tmp_path
):
    if cluster == "none" and kind in {*DEADLY, *DEADLY_AT_ONCE}:
        return  # a process does not outlive itself
    result = ranked(target, tmp_path, cluster, "plain", kind, "frozen")
    for name, numbers in scores_of(tmp_path).items():
        np.testing.assert_array_equal(numbers, undisturbed[name])
    assert WANTED[kind] in told(result, tmp_path / "RUN", kind)
    shown = cte("status", tmp_path / "RUN")
    page = cte("report", tmp_path / "RUN", "--quiet")
    assert (shown.exit_code, page.exit_code) == (0, 0), (shown.output, page.output)
    assert kind in (tmp_path / "RUN" / "report.html").read_text()
