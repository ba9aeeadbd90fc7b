"""Worked examples of models that emit labels: their post-processing, and a bank of them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cte_dask.cli.app import app
from cte_dask.volume import write_ome_zarr

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STYLES = ("cellpose_style", "stardist_style")


@pytest.fixture(scope="module", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


def from_truth(style: str, labels: np.ndarray) -> np.ndarray:
    """Labels made by an example's post-processing of the maps made of labels."""
    module = example(style)
    if style == "cellpose_style":
        maps = module.flows(labels)
        return module.labels_from_flows(maps[:2], maps[2])
    maps = module.stars(labels)
    return module.labels_from_stars(maps[0], maps[1:])


def discs(rng: np.random.Generator, shape=(112, 112), number: int = 14) -> np.ndarray:
    """Discs and ellipses, many touching, none over another."""
    labels = np.zeros(shape, np.int32)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for n in range(1, number + 1):
        cy, cx = (rng.uniform(0, e) for e in shape)
        a, b = rng.uniform(6, 11, 2)
        inside = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1
        if not labels[inside].any():
            labels[inside] = n
    return labels


def two_touching() -> np.ndarray:
    labels = np.zeros((40, 60), np.int32)
    labels[8:30, 5:28] = 1
    labels[12:34, 28:52] = 2
    return labels


# Post-processing --------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_objects_that_touch_are_given_back_apart(style):
    matched = example("instance_training").matched
    labels = two_touching()
    found = from_truth(style, labels)
    assert found.max() == 2
    assert (matched(found, labels) > 0.9).all()


@pytest.mark.data
@pytest.mark.parametrize("style", STYLES)
def test_true_maps_of_real_nuclei_give_their_labels_back(style, data_dir):
    training = example("instance_training")
    truth = training.read_images(data_dir / "n_dsb_b256_fibro.npz", split="test").labels[:4]
    ious = []
    for labels in truth:
        found = from_truth(style, labels)
        assert found.max() == len(np.unique(labels)) - 1
        ious.append(training.matched(found, labels))
    iou = np.concatenate(ious)
    assert len(iou) > 20
    assert iou.min() > 0.9


@pytest.mark.parametrize("style", STYLES)
def test_an_empty_image_has_no_labels(style):
    found = from_truth(style, np.zeros((32, 40), np.int32))
    assert found.shape == (32, 40)
    assert found.max() == 0


def test_flow_points_to_the_middle_of_a_disc():
    labels = np.zeros((31, 31), np.int32)
    y, x = np.ogrid[:31, :31]
    labels[(y - 15) ** 2 + (x - 15) ** 2 < 100] = 1
    flow = example("cellpose_style").flows(labels)
    assert np.allclose(flow[:2, 15, 22], (0, -1), atol=0.05)
    assert np.allclose(flow[:2, 9, 15], (1, 0), atol=0.05)
    assert np.array_equal(flow[2], labels)


def test_small_objects_of_a_flow_are_dropped():
    labels = two_touching()
    labels[0:3, 0:3] = 3
    maps = example("cellpose_style").flows(labels)
    counts = [
        example("cellpose_style").labels_from_flows(maps[:2], maps[2], min_size=size).max()
        for size in (1, 15, 5000)
    ]
    assert counts == [3, 2, 0]


def test_distances_are_to_the_border_along_each_ray():
    labels = np.zeros((30, 40), np.int32)
    labels[10:21, 5:36] = 7
    maps = example("stardist_style").stars(labels, rays=4)
    assert maps[0].max() == maps[0, 15, 20] == 1
    assert maps[1:, 15, 20] == pytest.approx((15.5, 5.5, 15.5, 5.5), abs=0.51)


def test_of_polygons_that_overlap_the_likeliest_is_kept():
    probability = np.zeros((40, 40), np.float32)
    distances = np.full((16, 40, 40), 8, np.float32)
    probability[20, 14], probability[20, 23], probability[4, 36] = 0.8, 0.9, 0.3
    keep = example("stardist_style").labels_from_stars
    both = keep(probability, distances, overlap=0.9)
    assert both.max() == 2
    one = keep(probability, distances, overlap=0.1)
    assert one.max() == 1
    assert one[20, 23] == 1
    assert one[20, 14] == 0
    assert (one > 0).sum() == pytest.approx(8 * np.sin(np.pi / 8) * 8**2, rel=0.1)


@pytest.mark.parametrize(
    ("style", "factory", "package", "arguments"),
    [
        ("cellpose_style", "cellpose", "cellpose", {"pretrained": "cyto3"}),
        ("stardist_style", "stardist", "stardist tensorflow", {"name": "2D_versatile_fluo"}),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_remedy(
    style, factory, package, arguments, monkeypatch
):
    monkeypatch.setitem(sys.modules, f"{factory}.models", None)
    with pytest.raises(ValueError, match=f"pip install {package}$"):
        getattr(example(style), factory)(**arguments)


# Through a bank ---------------------------------------------------------------------------------


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright objects on a dark, noisy ground: images uint8 (z, y, x) and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.stack([discs(rng) for _ in range(6)])
    light = rng.uniform(90, 160, labels.max() + 1)
    light[0] = 30
    image = light[labels] + rng.normal(0, 8, labels.shape)
    return image.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A bank of both examples, trained by their scripts on made images."""
    folder = tmp_path_factory.mktemp("bank")
    raw, labels = scene(0)
    split = np.array(["train"] * 5 + ["test"])
    np.savez(folder / "made.npz", raw=raw, label=labels.astype(np.uint8), split=split)
    models = {}
    for style in STYLES:
        out = folder / style
        words = ["--out", str(out), "--data", str(folder), "--pack", "made", "--steps", "60"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{style}.py", *words])
            example(style).main()
        models |= yaml.safe_load((out / "bank.yaml").read_text())["models"]
        told = json.loads((out / "labels.json").read_text())
        assert told["found"] > 0.5, f"{style} finds too little to be an example: {told}"
    path = folder / "bank.yaml"
    path.write_text(yaml.safe_dump({"schema": "cte-bank/1", "models": models}, sort_keys=False))
    return path


def cte(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_both_examples_pass_the_check_of_a_bank(bank):
    result = cte("models", "check", bank, "--json")
    assert result.exit_code == 0, result.output
    reports = json.loads(result.stdout)
    assert [r["name"] for r in reports] == ["cellpose-style", "stardist-style"]
    assert all(r["ok"] for r in reports)


@pytest.fixture(scope="module")
def ranking(bank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_ome_zarr(
        folder / "target.zarr",
        scene(1)[0][:2],
        axes="zyx",
        voxel_size_nm=(500.0, 500.0, 500.0),
        chunks=(1, 112, 112),
    )
    perturbations = ("--perturb", "gaussian:0.1", "--perturb", "dropout:0.5")
    fast = ("--cluster", "none", "--quiet", "--tile", "1,112,112", "--batch", "1")
    target, out = folder / "target.zarr", folder / "RUN"
    words = ("--bank", bank, "--out", out, "--metric", "vrand", *perturbations)
    result = cte("rank", target, *words, *fast)
    assert result.exit_code == 0, result.output
    return json.loads((out / "ranking.json").read_text())


def test_both_examples_are_ranked_by_their_own_labels(ranking):
    assert (ranking["primary"], ranking["score"]) == ("cte", "vrand@gaussian:0.1")
    for model in ranking["models"]:
        score = model["scores"]["vrand@gaussian:0.1"]
        assert model["excluded"] is None
        assert 0 < score["cte"] < 1
        assert score["nan_fraction"] == 0


def test_dropout_reaches_the_network_in_front_of_post_processing_outside_torch(ranking):
    for model in ranking["models"]:
        assert model["scores"]["vrand@dropout:0.5"]["cte"] < 1
