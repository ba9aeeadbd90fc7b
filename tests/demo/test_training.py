"""The recipe that trains the example banks, on made images."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cte_dask.models import load_bank
from cte_dask.models.unet import UNet

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def recipe_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("train_bank")


def write_pack(path: Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.random((4, 18, 20)) < 0.2, np.ones((1, 8, 8), bool))
    raw = np.clip(60 + 100 * truth + rng.normal(0, 10, truth.shape), 0, 255).astype(np.uint8)
    split = np.array(["train", "test", "train", "test"])
    np.savez(path, raw=raw, label=truth.astype(np.uint8), split=split, group=np.arange(4))


@pytest.mark.slow
def test_a_bank_is_trained_written_and_readable(
    tmp_path: Path, recipe_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, pack in enumerate(("m_epfl_10nm", "m_vnc_9nm")):
        write_pack(tmp_path / f"{pack}.npz", seed=seed)
    out = tmp_path / "bank"
    words = ["mitochondria", "--data", str(tmp_path), "--out", str(out), "--steps", "10"]
    monkeypatch.setattr(sys, "argv", ["train_bank.py", *words, "--threads", "2"])
    recipe_module.main()

    bank = load_bank(out / "bank.yaml")
    record = json.loads((out / "training.json").read_text())
    assert len(bank) >= 6
    assert set(record["f1"]) == set(bank.names)
    for spec in bank:
        network = UNet(**(spec.arguments or {}))
        network.load_state_dict(load_file(spec.source))
        assert spec.voxel_size is not None


def test_a_missing_pack_is_named(
    tmp_path: Path, recipe_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["nuclei", "--data", str(tmp_path), "--out", str(tmp_path / "bank")]
    monkeypatch.setattr(sys, "argv", ["train_bank.py", *words])
    with pytest.raises(SystemExit, match=r"n_dsb_a256_mixed\.npz is missing.*--data"):
        recipe_module.main()


def test_the_same_seed_trains_the_same_weights(tmp_path: Path, recipe_module: ModuleType) -> None:
    write_pack(tmp_path / "pack.npz", seed=0)
    pack = recipe_module.read_pack(tmp_path / "pack.npz", split="train")
    recipe = recipe_module.Recipe("small", "pack", {"features": [4, 8]}, early=(("early", 0.5),))
    once, again, other = (
        recipe_module.fit(recipe, pack, steps=10, seed=seed) for seed in (0, 0, 1)
    )
    assert set(once) == {"small", "early"}
    for model, weights in once.items():
        assert all(torch.equal(value, again[model][name]) for name, value in weights.items())
    kernel = "encoders.0.conv1.weight"
    assert not torch.equal(once["small"][kernel], other["small"][kernel])
    assert not torch.equal(once["small"][kernel], once["early"][kernel])


def test_a_split_is_read_alone_and_scaled_image_by_image(
    tmp_path: Path, recipe_module: ModuleType
) -> None:
    raw = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16) * np.array(
        [[[1]], [[2]], [[5]]]
    )
    split = np.array(["train", "test", "train"])
    np.savez(tmp_path / "pack.npz", raw=raw, label=raw > 40, split=split)
    pack = recipe_module.read_pack(tmp_path / "pack.npz", split="train")
    assert pack.images.shape == pack.masks.shape == (2, 16, 16)
    for image in pack.images:
        assert np.percentile(image, (1, 99.8)) == pytest.approx((0, 1), abs=1e-5)
