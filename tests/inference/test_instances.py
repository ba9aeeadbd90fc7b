"""Instances, classes and labels: what is compared beyond one foreground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, write_bank
from torch import Tensor, nn

from cte_dask.consistency.instance import v_rand
from cte_dask.inference.instances import tile_labels
from cte_dask.inference.outputs import foreground, segmenter_of
from cte_dask.inference.segmenters import segmenter
from cte_dask.models import load_bank
from cte_dask.models.output import Output
from cte_dask.results.dataset import dataset_of
from cte_dask.results.layout import layout_of
from cte_dask.scoring.block_scores import joined
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.tiles import frame_of
from cte_dask.volume import open_volume

OPTIONS = {"tile": (1, 32, 32), "perturbations": ("dropout:0.5", "gaussian:0.1")}


class Channels(nn.Module):
    """Four maps made of the image: background, two classes, boundary."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        classes = torch.cat([0.45 - x, x - 0.5, 0.6 - (x - 0.45).abs() * 4, x * 0], 1) * 8
        return classes + 0.2 * self.up(self.down(x))


class Named(Channels):
    """The same as one of several named outputs."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"flows": x, "classes": super().forward(x)}


class Labels(nn.Module):
    """A black box that labels: the connected bright regions of a plane."""

    def forward(self, x: Tensor) -> Tensor:
        from scipy import ndimage

        planes = [ndimage.label(p[0].numpy() > 0.5)[0] for p in x]
        return torch.from_numpy(np.stack(planes))[:, None].to(torch.int64)


def make_channels() -> nn.Module:
    torch.manual_seed(0)
    return Channels()


def make_named() -> nn.Module:
    torch.manual_seed(0)
    return Named()


def make_labels() -> nn.Module:
    return Labels()


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def bank_of(folder, factory: str, extra: str):
    folder.mkdir(exist_ok=True)
    path = folder / "bank.yaml"
    path.write_text(f"""
schema: cte-bank/1
models:
  made:
    format: python
    source: test_instances:{factory}
    trust: true
    axes: yx
    halo: {{y: 8, x: 8}}
    multiple: {{y: 2, x: 2}}
    preprocessing: [{{name: scale_range, scope: volume}}]
{extra}
""")
    return load_bank(str(path))


def settle(bank, image, **options):
    return resolve(open_volume(image), bank, **{**OPTIONS, **options})


def consistencies(experiment):
    blocks = range(len(experiment.blocks))
    tiles = joined([score_block(experiment, i).tiles for i in blocks])
    assert not tiles.has_status("failed").any(), "a model failed"
    return dataset_of(layout_of(experiment), tiles, blocks), tiles


@pytest.fixture(scope="module")
def image():
    return blobs((3, 64, 96), seed=7)


def test_v_rand_of_the_run_is_v_rand_of_the_labels(image, tmp_path):
    experiment = settle(load_bank(str(write_bank(tmp_path, 1))), image, metrics=("vrand", "nhd"))
    assert str(experiment.primary) == "vrand@dropout:0.5"
    data, _ = consistencies(experiment)
    from cte_dask.perturb import draws_of
    from cte_dask.scoring.loaded import predictor
    from cte_dask.scoring.score_block import predict_tiles

    components = segmenter("components", threshold=0.5)
    draws = draws_of(experiment.perturbations, 1)
    (candidate,) = experiment.candidates
    assert predictor(candidate, experiment.inference).segmenter == components
    compared = 0
    for _, tile, (reference, *perturbed) in predict_tiles(experiment, 0, draws):
        for draw, prediction in enumerate(perturbed):
            got = float(data.vrand[0, draw].sel(tile=tile.index))
            # components of the frame equal those of the core where no object leaves the core
            inner = v_rand(components(reference[None]), components(prediction[None]))
            assert 0 <= got <= 1 or np.isnan(got)
            compared += bool(np.isclose(got, inner, equal_nan=True))
    assert compared > len(data.tile) // 2
    assert 0.05 < float(data.vrand.median()) < 1


@pytest.mark.slow
def test_blocks_do_not_change_instances(image, tmp_path):
    bank = load_bank(str(write_bank(tmp_path, 2)))
    one, many = (
        consistencies(settle(bank, image, metrics=("vrand",), block=block))[0].sortby("tile")
        for block in ((3, 2, 3), (1, 1, 1))
    )
    np.testing.assert_array_equal(one.vrand, many.vrand)


def test_a_border_band_changes_the_count(image, tmp_path):
    bank = load_bank(str(write_bank(tmp_path, 1)))
    plain, banded = (
        consistencies(settle(bank, image, metrics=("vrand",), border=b))[0].vrand for b in (0, 1)
    )
    assert (plain != banded).any()
    with pytest.raises(ValueError, match="border must be at least 0"):
        settle(bank, image, metrics=("vrand",), border=-1)


def test_no_instances_are_made_where_no_metric_asks_for_them(image, tmp_path):
    experiment = settle(load_bank(str(write_bank(tmp_path, 1))), image, metrics=("nhd",))
    _, tiles = consistencies(experiment)
    assert np.isnan(tiles.statistics["pair_common"]).all()


def test_planes_of_a_2d_model_never_share_an_object():
    maps = np.zeros((2, 1, 8, 8), np.float32)
    maps[:, 0, 2:5, 2:5] = 1
    frame = frame_of((2, 6, 6), halo=(0, 1, 1), multiple=(1, 1, 1))
    labels = tile_labels(maps, segmenter("components"), dims=2, frame=frame, tile=(2, 6, 6))
    assert labels.shape == (1, 2, 6, 6)
    assert set(np.unique(labels[0, 0])) == {0, 1}
    assert set(np.unique(labels[0, 1])) == {0, 2}


def test_classes_are_averaged_over_those_present(image, tmp_path):
    extra = "    output: {activation: softmax, classes: [1, 2]}"
    data, _ = consistencies(settle(bank_of(tmp_path, "make_channels", extra), image))
    single = []
    for channel in (1, 2):
        extra = f"    output: {{activation: softmax, classes: [{channel}]}}"
        folder = tmp_path / str(channel)
        single.append(consistencies(settle(bank_of(folder, "make_channels", extra), image))[0])
    for name in ("nhd",):
        want = np.nanmean([s[name].to_numpy() for s in single], axis=0)
        np.testing.assert_allclose(data[name], want, rtol=1e-12)
    assert 0.1 < float(data.nhd.median()) < 1


def test_a_voxel_belongs_to_its_most_probable_class_only():
    logits = torch.tensor([[[0.1], [2.0], [1.0]]]).reshape(1, 3, 1)
    maps = foreground(logits, Output(activation="softmax", classes=(1, 2)))
    assert maps[0, 0] > 0.5
    assert maps[0, 1] == 0


def test_one_of_several_named_outputs_is_taken(image, tmp_path):
    named, plain = (
        consistencies(settle(bank_of(tmp_path / f, f, f"    output: {{channel: 1{i}}}"), image))[0]
        for f, i in (("make_named", ", index: classes"), ("make_channels", ""))
    )
    np.testing.assert_array_equal(named.nhd, plain.nhd)


@pytest.mark.parametrize(
    ("factory", "extra", "words"),
    [
        ("make_named", "    output: {channel: 1}", "of which 2 have the input's extent"),
        ("make_named", "    output: {index: nothing}", "'nothing' is not there"),
        ("make_channels", "    output: {channel: 9}", "channel 9 does not exist"),
        ("make_channels", "    segmenter: {name: componentz}", "componentz"),
        ("make_channels", "    segmenter: {name: boundary_watershed}", "boundary"),
        ("make_channels", "    segmenter: {channels: {bondary: 3}}", "bondary"),
        ("make_channels", "    segmenter: {parameters: {treshold: 1}}", "treshold"),
    ],
)
def test_outputs_that_do_not_fit_exclude_the_model_with_the_reason(
    image, tmp_path, factory, extra, words
):
    bank = bank_of(tmp_path, factory, extra)
    with pytest.raises(ValueError, match=words):
        settle(bank, image, metrics=("vrand",))


def test_a_boundary_channel_drives_its_segmenter(image, tmp_path):
    extra = """    output: {channel: 1}
    segmenter: {name: boundary_watershed, channels: {boundary: 2, foreground: 1}}"""
    experiment = settle(bank_of(tmp_path, "make_channels", extra), image, metrics=("vrand",))
    assert segmenter_of(experiment.candidates[0].spec).channels == ("boundary", "foreground")
    data, _ = consistencies(experiment)
    assert np.isfinite(data.vrand).mean() > 0.5


def test_a_black_box_that_labels_is_ranked_by_its_own_labels(image, tmp_path):
    extra = "    output: {activation: labels}"
    bank = bank_of(tmp_path, "make_labels", extra)
    experiment = settle(
        bank, image, metrics=("vrand", "nhd"), perturbations=("gaussian:0.1", "dropout:0.2")
    )
    assert str(experiment.primary) == "vrand@gaussian:0.1"
    assert not experiment.candidates[0].features
    data, _ = consistencies(experiment)
    noise = data.sel(perturbation="gaussian:0.1")
    assert 0.05 < float(noise.vrand.median()) < 1
    assert 0.5 < float(noise.nhd.median()) < 1
    assert np.isnan(data.sel(perturbation="dropout:0.2").vrand).all()
