"""Each thing that a model can do to a run, in this process and on workers: it is named, no other.

The others' scores are the same bits as without it.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import yaml
from conftest import blobs
from processes import Command
from troubled import cte

from cte_dask.inference.check import check_bank
from cte_dask.models import load_bank
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


def ranked(target: str, folder: Path, cluster: str, *kinds: str, **more: bool) -> dict:
    began = time.monotonic()
    bank = write_bank(folder / "bank.yaml", *kinds)
    out, options = str(folder / "RUN"), dict(OPTIONS)
    options |= more
    if any(kind in HANGING for kind in kinds):
        options["time_limit"] = LIMIT
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
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


WAYS = [
    (kind, cluster)
    for kind in WANTED
    for cluster in ("none", "local")
    if cluster == "local" or kind not in {*DEADLY, *DEADLY_AT_ONCE}
]


@pytest.mark.parametrize(("kind", "cluster"), WAYS)
def test_the_culprit_is_named_and_the_others_have_their_scores(
    kind, cluster, target, undisturbed, tmp_path
):
    result = ranked(target, tmp_path, cluster, "plain", kind, "frozen")
    for name, numbers in scores_of(tmp_path).items():
        np.testing.assert_array_equal(numbers, undisturbed[name])
    assert WANTED[kind] in told(result, tmp_path / "RUN", kind)
    shown = cte("status", tmp_path / "RUN")
    page = cte("report", tmp_path / "RUN", "--quiet")
    assert (shown.exit_code, page.exit_code) == (0, 0), (shown.output, page.output)
    assert kind in (tmp_path / "RUN" / "report.html").read_text()


@pytest.mark.parametrize("kind", [*DEADLY, *DEADLY_AT_ONCE])
def test_what_ends_the_one_process_there_is_costs_nothing_where_workers_go_on(
    kind, target, undisturbed, tmp_path
):
    bank, out = write_bank(tmp_path / "bank.yaml", "plain", kind, "frozen"), tmp_path / "RUN"
    words = ["rank", target, "--bank", bank, "--out", out, "--tile", "1,32,32", "--block", "1,2,2"]
    words += ["--perturb", "gaussian:0.1", "--quiet"]
    alone = Command([*words, "--cluster", "none"], tmp_path / "alone")
    assert alone.wait(LONGEST) in (-signal.SIGSEGV, 7)
    assert not (out / "ranking.json").exists(), "nothing is told that was not found"
    ranked(target, tmp_path, "local", "plain", kind, "frozen", resume=True)
    for name, numbers in scores_of(tmp_path).items():
        np.testing.assert_array_equal(numbers, undisturbed[name])


CHECKED = {
    "nan": "the prediction of random noise holds NaN or infinity",
    "gone": "its code called sys.exit(0)",
    "crashing_at_once": "crashed with SIGSEGV",
    "killing_at_once": "ended with exit code 7",
    "sleeping_at_once": "gave no answer within",
}


def test_a_check_names_every_culprit_and_finds_the_others_usable(tmp_path):
    kinds = ("plain", *CHECKED, *UNSTEADY, *LATE, *UNHARMED, *DEADLY, "frozen")
    bank = load_bank(write_bank(tmp_path / "bank.yaml", *kinds))
    reports = {r.name: r for r in check_bank(bank, timeout=8)}
    assert {name for name, r in reports.items() if not r.ok} == set(CHECKED)
    for kind, why in CHECKED.items():
        assert why in reports[kind].reason
    for kind in kinds:
        steady = not any("not deterministic" in note for note in reports[kind].notes)
        assert steady == (kind not in UNSTEADY), kind
