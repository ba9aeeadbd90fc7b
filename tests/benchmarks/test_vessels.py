"""Published vessel networks: their architectures take the weights; labels order, never estimate."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

VESSELS = Path(__file__).resolve().parents[2] / "benchmarks" / "vessels"
MODULES = (
    *("bank", "errors", "evidence", "fundus", "images", "ordering", "predictions", "retina_unet"),
    "vessel_tables",
)
NAMES = (
    *("m2unet_drive", "m2unet_chasedb1", "m2unet_hrf"),
    *("lwnet_wnet_drive", "lwnet_big_wnet_drive_av", "lwnet_big_wnet_hrf_av_1024"),
    *(f"retina_unet_{name}" for name in ("best_a", "best_b", "last_a", "last_b", "odd")),
    *(f"retina_unet_barely_trained_{name}" for name in ("a", "b")),
)
FACTORS = (
    "estimated F1",
    "agreement",
    *(f"CTE, {p}" for p in ("dropout", "noise", "mirror", "several")),
)
DROPOUT, MIRROR, NOISE, SMALLER = "dropout:0.2", "mirror", "gaussian:0.1", "zoom:0.8"


@pytest.fixture(scope="module")
def vessels():
    """The modules of the benchmark by name; they are scripts beside each other, no package."""
    sys.path.insert(0, str(VESSELS))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path.remove(str(VESSELS))


@pytest.fixture
def zoo(vessels):
    folder = vessels.bank.ZOO
    if not (folder / "vessels").is_dir():
        pytest.skip(f"no published networks at {folder}: set CTE_ZOO")
    return folder


def network_named(vessels, name):
    return next(n for n in vessels.bank.NETWORKS if n.name == name)


def test_the_bank_holds_thirteen_networks(vessels):
    assert sorted(n.name for n in vessels.bank.NETWORKS) == sorted(NAMES)


@pytest.mark.data
@pytest.mark.parametrize("name", NAMES)
def test_weights_fit_their_architecture_and_give_a_probability(vessels, zoo, name):
    network = network_named(vessels, name)
    module = vessels.bank.load(network, zoo)  # strict: nothing missing, nothing left over
    image = np.random.default_rng(0).uniform(0, 255, (3, 64, 96)).astype(np.float32)
    with torch.inference_mode():
        probability = module(torch.from_numpy(network.prepare(image))[None])
    assert probability.shape == (1, 1, 64, 96)
    assert bool(((probability >= 0) & (probability <= 1)).all())
    assert not module.training


@pytest.mark.data
def test_weights_of_another_architecture_are_refused(vessels, zoo):
    wrong = replace(
        network_named(vessels, "lwnet_wnet_drive"),
        build=network_named(vessels, "lwnet_big_wnet_drive_av").build,
    )
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        vessels.bank.load(wrong, zoo)


def test_kernels_of_theano_are_flipped_those_of_tensorflow_are_not(vessels):
    kernel = torch.arange(9.0).reshape(1, 1, 3, 3)
    theano, tensorflow = {}, {}
    for number in range(1, 12):
        name = f"convolution2d_{number}"
        theano |= {f"{name}.{name}_W": kernel, f"{name}.{name}_b": torch.zeros(1)}
        name = f"conv2d_{number}"
        kernels = {f"{name}.{name}.kernel:0": kernel.permute(2, 3, 1, 0)}
        tensorflow |= {**kernels, f"{name}.{name}.bias:0": torch.zeros(1)}
    flipped = vessels.retina_unet.state_of(theano)["top.0.weight"]
    assert flipped.ravel().tolist() == list(range(8, -1, -1))
    assert torch.equal(vessels.retina_unet.state_of(tensorflow)["top.0.weight"], kernel)


def test_the_port_pools_pairs_of_channels_and_rows(vessels):
    network = vessels.retina_unet.RetinaUNet(pools_channels=True)
    features = torch.arange(2 * 2 * 3.0).reshape(1, 2, 2, 3)  # channels, rows, columns
    pooled = network._halved(features)
    assert pooled.tolist() == [[[[9.0, 10.0, 11.0]]]]
    appended = network._appended(torch.zeros(1, 1, 2, 3), pooled)
    assert appended.shape == (1, 3, 2, 3)
    assert appended[0, 1:, :, 0].tolist() == [[9.0, 9.0], [9.0, 9.0]]


def test_local_histograms_are_equalised_as_opencv_does(vessels):
    y, x = np.mgrid[:21, :26]
    gray = ((7 * y + 3 * x + y * x) % 97 + 2 * y).astype(np.uint8)
    equalised = vessels.fundus.clahe(gray)
    # every fifth pixel of what cv2.createCLAHE(2.0, (8, 8)) of OpenCV 5.0.0 gives
    assert equalised[::5, ::5].tolist() == [
        [42, 64, 64, 80, 138, 207],
        [128, 214, 92, 198, 9, 116],
        [135, 121, 39, 208, 120, 32],
        [53, 24, 244, 223, 207, 191],
        [110, 168, 234, 34, 53, 106],
    ]


def test_a_gray_input_spans_zero_to_one_whatever_the_image(vessels):
    rng = np.random.default_rng(1)
    image = rng.normal(100, 60, (3, 48, 40)).astype(np.float32)  # noise goes beyond 0 to 255
    gray = vessels.fundus.equalised_gray(image)
    assert gray.shape == (1, 48, 40)
    assert gray.dtype == np.float32
    assert 0 <= gray.min() < gray.max() <= 1


class Pointwise(nn.Module):
    """A pixel is vessel where green is dark; nothing but the pixel itself counts."""

    def __init__(self):
        super().__init__()
        self.inner = nn.AvgPool2d(1)
        self.small = nn.AvgPool2d(2)

    def forward(self, x):
        self.small(x)
        return torch.sigmoid(20 * (0.5 - self.inner(x)[:, 1:2]))


def some_images(vessels, count=2, shape=(40, 36)):
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    view = np.ones((count, *shape), bool)
    view[:, :3] = False
    return vessels.images.Images(raw, raw[..., 1] < 128, view, 0.0, 255.0)


def test_perturbed_predictions_lie_on_the_images_own_grid(vessels):
    images = some_images(vessels)
    network = vessels.bank.Network("pointwise", "nothing", Pointwise)
    predictor = vessels.predictions.Predictor(network, Pointwise(), images)
    masks = {p: predictor.mask(1, p) for p in ("none", MIRROR, NOISE, SMALLER)}
    assert {m.shape for m in masks.values()} == {(40, 36)}
    assert np.array_equal(masks["none"], images.label[1])
    assert np.array_equal(masks[MIRROR], masks["none"])  # a mirror is undone to the last pixel
    assert not np.array_equal(masks[NOISE], masks["none"])
    assert np.array_equal(predictor.mask(1, NOISE), masks[NOISE])  # the same draw again


def test_dropout_acts_on_the_bottleneck_of_a_published_network(vessels, zoo):
    images = some_images(vessels)
    network = network_named(vessels, "lwnet_wnet_drive")
    predictor = vessels.predictions.Predictor(network, vessels.bank.load(network, zoo), images)
    assert predictor.bottleneck == "network.unet1.down_path.1"
    assert not np.array_equal(predictor.mask(0, "none"), predictor.mask(0, DROPOUT))


def test_predictions_are_kept(vessels, tmp_path, monkeypatch):
    images = some_images(vessels)
    network = vessels.bank.Network("pointwise", "nothing", Pointwise)
    monkeypatch.setattr(vessels.predictions, "load", lambda _network: Pointwise())
    first = vessels.predictions.Masks(tmp_path, network, images).get(0, MIRROR)

    def absent(_network):
        raise AssertionError("the network was loaded again")

    monkeypatch.setattr(vessels.predictions, "load", absent)
    again = vessels.predictions.Masks(tmp_path, network, images)
    assert np.array_equal(again.get(0, MIRROR), first)


class Remembered:
    """Masks of a network that errs at a rate: on other pixels under each perturbation."""

    def __init__(self, name, rate, truth):
        self.network = SimpleNamespace(name=name, trained_on=name)
        self.rate, self.truth = rate, truth

    def get(self, number, perturbation):
        rng = np.random.default_rng([number, len(perturbation), len(self.network.name)])
        if self.rate is None:
            return np.zeros_like(self.truth[number])
        wrong = rng.random(self.truth[number].shape) < self.rate
        return self.truth[number] ^ wrong


def a_record(vessels, label=None):
    images = some_images(vessels, count=4)
    target = vessels.images.Target("r_none", "None", "aa")
    rates = {"a": 0.02, "aa": 0.05, "aaa": 0.1, "aaaa": 0.2, "aaaaa": 0.3, "aaaaaa": None}
    bank = [Remembered(name, rate, images.label) for name, rate in rates.items()]
    if label is not None:
        images = replace(images, label=label(images.label))
    return vessels.evidence.record_of(target, images, bank)


@pytest.mark.slow
def test_a_record_orders_networks_and_flags_the_one_that_predicts_nothing(vessels):
    record = a_record(vessels)
    transfer = record["scores"][vessels.ordering.DEFAULT]
    assert transfer["tau"] == transfer["share"] == transfer["tau_usable"] == 1
    assert (transfer["pick"], transfer["lost"]) == (0, 0)
    flagged = record["models"][-1]
    assert flagged["flags"] == ["predicts nothing"]
    assert flagged["f1"] == 0
    assert flagged["estimated F1"] is None
    assert record["estimated_f1"]["mean_absolute_error"] < 0.05


@pytest.mark.slow
def test_nothing_that_is_estimated_looks_at_labels(vessels):
    def estimates(record):
        return [{k: v for k, v in model.items() if k != "f1"} for model in record["models"]]

    honest, reversed_ = a_record(vessels), a_record(vessels, label=np.logical_not)
    assert estimates(honest) == estimates(reversed_)
    assert honest["models"][0]["f1"] != reversed_["models"][0]["f1"]


def test_pairs_that_lie_apart_and_the_loss_of_a_pick(vessels):
    tiles = {name: np.array([[0.5], [0.9], [0.8]]) for name in FACTORS}
    truth = np.array([[0.9], [0.88], [0.3], [0.0]])
    usable = np.array([True, True, True, False])
    found = vessels.ordering.ordering(
        tiles, truth, usable=usable, foreign=np.ones(4, bool), seed=0
    )["estimated F1"]
    # the first two lie 0.02 apart and do not count; the first and the third are out of order
    assert (found["pairs"], found["share"]) == (5, 0.8)
    assert (found["pick"], found["lost"]) == (1, pytest.approx(0.02))


def test_errors_that_most_networks_make_are_shared(vessels):
    truth = [np.array([True, True, False, False])]
    same, own, none = (
        [np.array(mask, bool)] for mask in ([0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0])
    )
    shared_errors = vessels.errors.shared_errors
    assert shared_errors([same, same, same], truth) == 1  # all miss the first pixel
    assert shared_errors([own, none, none], truth) == 0
    # of three wrong pixels in two networks, each is wrong in one of the two others: not in most
    assert shared_errors([same, same, own], truth) == 0


def test_tables_and_figures_are_written(vessels, tmp_path):
    record = a_record(vessels)
    vessels.vessel_tables.write_records(tmp_path / "vessels.json", [record])
    vessels.vessel_tables.write_tables(tmp_path / "vessels.md", [record])
    page = (tmp_path / "vessels.md").read_text()
    assert "## None, 4 images" in page
    assert "predicts nothing" in page
    assert f"**{vessels.ordering.DEFAULT}** | 1.00 [1.00, 1.00] | 1.00" in page
    images = some_images(vessels, count=4)
    bank = [Remembered("a", 0.1, images.label)] * 3
    vessels.errors.draw_errors(tmp_path / "errors.png", [("None", images, bank)])
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_draws_published_networks(vessels, tmp_path):
    record = a_record(vessels)
    for model, network in zip(record["models"], vessels.bank.NETWORKS, strict=False):
        model |= {"name": network.name, "trained_on": network.trained_on}
    vessels.vessel_tables.write_figure(tmp_path / "vessels.png", [record])
    assert (tmp_path / "vessels.png").read_bytes().startswith(b"\x89PNG")
