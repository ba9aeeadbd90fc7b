"""The banks and the targets of the paper's experiment."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cte_dask.models import load_bank
from cte_dask.volume import open_volume

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CTE_DATA", REPOSITORY.parent / "shared" / "data"))
MODULES = ("recipes", "train", "targets")


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The modules of ``benchmarks/paper``, which lie in no package."""
    monkeypatch.syspath_prepend(REPOSITORY / "examples")
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks" / "paper")
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:  # their names are common ones
        sys.modules.pop(name, None)


def write_pack(path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.kron(rng.random((6, 18, 20)) < 0.2, np.ones((1, 8, 8), bool))
    raw = np.clip(60 + 100 * truth + rng.normal(0, 10, truth.shape), 0, 255).astype(np.uint8)
    split = np.array(["train", "test"] * 3)
    np.savez(path, raw=raw, label=truth.astype(np.uint8), split=split, group=np.arange(6))


def test_names_and_seeds_are_unique(paper: dict[str, ModuleType]) -> None:
    for runs in (paper["recipes"].FULL_RUNS, paper["recipes"].QUICK_RUNS):
        names = [name for run in runs for name in run.models]
        assert len(set(names)) == len(names)
        seeds = [run.seed for run in runs if run.recipe.pack == "m_vnc_9nm"]
        assert len(set(seeds)) == len(seeds)


def test_what_a_run_starts_from_is_trained_before_it_and_has_its_shape(
    paper: dict[str, ModuleType],
) -> None:
    before: dict[str, object] = {}
    for run in paper["recipes"].FULL_RUNS:
        if run.start is not None:
            assert before[run.start].recipe.arguments == run.recipe.arguments
            assert before[run.start].recipe.pack != run.recipe.pack
        before[run.name] = run


@pytest.mark.parametrize(("task", "sources", "models"), [("nuclei", 9, 9), ("mitochondria", 2, 12)])
def test_banks_hold_one_source_a_model_and_zoos_hold_siblings(
    paper: dict[str, ModuleType], task: str, sources: int, models: int
) -> None:
    runs = paper["recipes"].FULL_RUNS
    banks = paper["recipes"].banks(runs)
    maker = {name: run for run in runs for name in run.models}
    assert len(banks[task]) >= models
    assert all(maker[name].start is None for name in banks[task])
    assert len({maker[name].recipe.pack for name in banks[task]}) == sources
    assert len(banks[f"{task}-zoo"]) >= 16
    assert set(banks[task]) < set(banks[f"{task}-zoo"])


def test_no_target_is_short_of_models_that_never_saw_it(paper: dict[str, ModuleType]) -> None:
    runs = paper["recipes"].FULL_RUNS
    maker = {name: run for run in runs for name in run.models}

    def seen(name: str) -> set[str]:
        run = maker[name]
        return {run.recipe.pack} | (seen(run.start) if run.start else set())

    for bank, least in (("nuclei", 6), ("mitochondria", 5), ("nuclei-zoo", 16),
                        ("mitochondria-zoo", 16)):  # fmt: skip
        names = paper["recipes"].banks(runs)[bank]
        for pack in {maker[name].recipe.pack for name in names}:
            assert sum(pack not in seen(name) for name in names) >= least


def test_a_short_training_writes_a_bank_that_loads_and_is_not_repeated(
    paper: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes, train = paper["recipes"], paper["train"]
    write_pack(tmp_path / "m_vnc_9nm.npz")
    first = recipes.Run(
        recipes.Recipe("first", "m_vnc_9nm", {"features": [4, 8]}, early=(("half", 0.4),)), 5, 1
    )
    again = recipes.Run(
        recipes.Recipe("again", "m_vnc_9nm", {"features": [4, 8]}, rate=1e-3),
        5, 2, start="first", images=1, own_labels=True, zoo_only=True,
    )  # fmt: skip
    cache = tmp_path / "cache"
    train.train((first, again), cache, data=tmp_path)
    files = train.write_banks((first, again), cache)
    assert load_bank(files["mitochondria"]).names == ("first",)
    zoo = load_bank(files["mitochondria-zoo"])
    assert zoo.names == ("half", "first", "again")
    record = json.loads((files["mitochondria-zoo"].parent / "training.json").read_text())
    assert record["again"]["labels_seen"] == ["m_vnc_9nm"]  # its own guesses are no labels
    assert record["again"]["images_seen"] == ["m_vnc_9nm", "m_vnc_9nm"]
    assert 0 <= record["again"]["in_domain_f1"] <= 1

    capsys.readouterr()
    train.train((first, again), cache, data=tmp_path)
    assert "2 of 2 runs are in" in capsys.readouterr().out
    (cache / "models" / "half.safetensors").unlink()
    train.train((first, again), cache, data=tmp_path)
    assert (cache / "models" / "half.safetensors").exists()


@pytest.mark.data
def test_a_target_holds_the_test_images_each_on_its_own_scale(
    paper: dict[str, ModuleType], tmp_path: Path
) -> None:
    source = DATA / "n_mnf_u2os.npz"
    if not source.exists() and not os.environ.get("CI"):
        pytest.skip(f"{source} is missing: set CTE_DATA")
    target = next(t for t in paper["targets"].TARGETS if t.name == "n_mnf_u2os")
    path = paper["targets"].make_targets(tmp_path, data=DATA, targets=(target,))["n_mnf_u2os"]
    with np.load(source) as pack:
        test = pack["split"] == "test"
        raw, labels = pack["raw"][test], pack["label"][test]
    image, truth = open_volume(str(path)), open_volume(str(path / "labels" / "nuclei"))
    found = image.read((0, 0, 0), image.shape)
    low, high = np.percentile(raw[1].astype(np.float64), (1, 99.8))
    np.testing.assert_allclose(found[1], (raw[1] - low) / (high - low), atol=1e-5)
    kept = truth.read((0, 0, 0), truth.shape)
    assert kept.dtype == np.uint32
    np.testing.assert_array_equal(kept, labels)
    assert image.shape == raw.shape
