"""The demonstration's bank and target."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr
from safetensors.torch import load_file
from typer.testing import CliRunner

from cte_dask.cli import demo
from cte_dask.cli.app import app
from cte_dask.demo import LABELS, SHAPE, VOXEL_SIZE_NM, bank_path, write_demo_target
from cte_dask.demo.simulate import simulate_nuclei
from cte_dask.inference.halo import measure_halo
from cte_dask.models import load_bank
from cte_dask.models.loading import load_network
from cte_dask.models.unet import UNet
from cte_dask.volume import write_ome_zarr

HEAVY = ("torch", "dask", "distributed", "zarr", "scipy", "numpy")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "target.zarr"
    write_demo_target(path)
    return path


@pytest.fixture(scope="module")
def networks() -> dict[str, UNet]:
    built = {}
    for spec in load_bank(bank_path()):
        built[spec.name] = UNet(**(spec.arguments or {})).eval()
        built[spec.name].load_state_dict(load_file(spec.source), strict=True)
    return built


def test_the_bank_declares_a_halo_that_is_enough() -> None:
    first, *others = load_bank(str(bank_path()))  # one architecture
    network = load_network(first)
    measured = measure_halo(network.forward, dims=2, multiple=8, activation=torch.sigmoid)
    assert all(d >= m for d, m in zip(first.halo_zyx, measured.zyx, strict=True)), measured
    assert {(o.halo_zyx, repr(o.arguments)) for o in others} == {
        (first.halo_zyx, repr(first.arguments))
    }


def test_importing_the_demonstration_loads_nothing_heavy() -> None:
    code = "import sys, cte_dask.demo as d; d.bank_path(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(run.stdout.split())


def test_the_bank_names_weights_that_are_there_and_small() -> None:
    bank = load_bank(bank_path())
    assert len(bank) >= 6
    for spec in bank:
        data = Path(spec.source).read_bytes()
        assert len(data) < 1_000_000
        assert hashlib.sha256(data).hexdigest() == spec.sha256


def test_every_weight_is_finite_and_single_precision(networks: dict[str, UNet]) -> None:
    for network in networks.values():
        for weight in network.parameters():
            assert weight.dtype == torch.float32
            assert torch.isfinite(weight).all()


def test_the_record_of_the_training_covers_the_bank() -> None:
    record = json.loads((bank_path().parent / "training.json").read_text())
    names = set(load_bank(bank_path()).names)
    assert set(record["trained_on"]) == set(record["f1"]) == names
    # Only nuclei packs have a licence under which weights may be given on.
    assert all(pack.startswith("n_") for pack in record["trained_on"].values())
    assert min(record["in_domain_f1"].values()) > 0.8


@pytest.mark.data
def test_the_record_names_the_data_it_was_trained_on(data_dir: Path) -> None:
    record = json.loads((bank_path().parent / "training.json").read_text())
    for pack, digest in record["data_sha256"].items():
        assert hashlib.sha256((data_dir / f"{pack}.npz").read_bytes()).hexdigest() == digest


@pytest.mark.data
def test_the_target_holds_images_of_the_test_split_and_their_labels(
    target: Path, data_dir: Path
) -> None:
    group = zarr.open_group(target, mode="r")
    scales = group.attrs["ome"]["multiscales"][0]
    image = group[scales["datasets"][0]["path"]]
    labels = zarr.open_group(target / "labels" / LABELS, mode="r")
    truth = labels[labels.attrs["ome"]["multiscales"][0]["datasets"][0]["path"]]
    assert image.shape == truth.shape == SHAPE
    pack = np.load(data_dir / "n_dsb_b256_fibro.npz")
    test = pack["split"] == "test"
    known = {i.tobytes(): t for i, t in zip(pack["raw"][test], pack["label"][test], strict=True)}
    for plane, labels_of_plane in zip(image[:], truth[:], strict=True):
        np.testing.assert_array_equal(labels_of_plane, known[plane.tobytes()])


def test_the_target_says_how_large_its_voxels_are(target: Path) -> None:
    scales = zarr.open_group(target, mode="r").attrs["ome"]["multiscales"][0]
    units = {"nanometer": 1, "micrometer": 1000}
    scale = scales["datasets"][0]["coordinateTransformations"][0]["scale"]
    sizes = [s * units[axis["unit"]] for s, axis in zip(scale, scales["axes"], strict=True)]
    assert sizes == pytest.approx(VOXEL_SIZE_NM)


def test_the_models_of_the_bank_are_not_equally_good(networks: dict[str, UNet]) -> None:
    image, labels = simulate_nuclei((8, 512, 512))
    low, high = np.percentile(image, (1, 99.8))
    planes = torch.from_numpy(((image[::4, :256, :256] - low) / (high - low)).astype(np.float32))
    truth = labels[::4, :256, :256] > 0
    f1 = {}
    for name, network in networks.items():
        with torch.inference_mode():
            predicted = (network(planes[:, None])[:, 0] > 0).numpy()
        f1[name] = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    assert max(f1.values()) - min(f1.values()) > 0.3


@pytest.fixture
def small_demo(monkeypatch, bank_path_of_two):
    """The demonstration with less to do: two models, two small planes, this process."""
    image, labels = simulate_nuclei((2, 96, 96), seed=0)

    def write_small(path):
        sizes = {"voxel_size_nm": VOXEL_SIZE_NM, "chunks": (1, 96, 96)}
        write_ome_zarr(path, image, axes="zyx", labels={LABELS: labels}, **sizes)

    monkeypatch.setattr(demo, "write_demo_target", write_small)
    monkeypatch.setattr(demo, "bank_path", lambda: bank_path_of_two)
    monkeypatch.setattr(demo, "rank_target", partial(demo.rank_target, cluster="none"))


@pytest.fixture(scope="module")
def bank_path_of_two(tmp_path_factory) -> Path:
    bank = tmp_path_factory.mktemp("bank")
    entries = yaml.safe_load(bank_path().read_text())
    chosen = {n: entries["models"][n] for n in ("nuclei-blurry", "nuclei-highmag")}
    for entry in chosen.values():
        entry["source"] = str(bank_path().parent / entry["source"])
    (bank / "bank.yaml").write_text(yaml.safe_dump({**entries, "models": chosen}))
    return bank / "bank.yaml"


def test_the_demonstration_prints_the_ranking_beside_the_truth(small_demo, tmp_path) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo-run")])
    assert result.exit_code == 0, result.output
    assert "true F1" in result.stdout
    assert "nuclei-blurry" in result.stdout
    assert "Kendall's tau with the true F1" in result.stdout
    assert f"cte report {tmp_path / 'demo-run' / 'run'}" in result.stdout.replace("\n", "")
    again = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo-run"), "--json", "-q"])
    assert again.exit_code == 0, again.output
    assert again.stderr == ""
    result = json.loads(again.stdout)
    assert set(result["f1"]) == {"nuclei-blurry", "nuclei-highmag"}
    assert all(0 <= f1 <= 1 for f1 in result["f1"].values())
    assert result["ranking"]["complete"] is True
