"""Geometric perturbations in a run: what is exactly equivariant is perfectly consistent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, write_bank
from torch import nn

from cte_dask.consistency.binary import nhd
from cte_dask.inference.try_out import flops_per_tile
from cte_dask.models import load_bank
from cte_dask.results.block_codec import encoded
from cte_dask.scoring import loaded
from cte_dask.scoring.block_scores import STATUS, TileScores, joined
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles, score_block
from cte_dask.volume import open_volume

EXACT = ("rotate", "mirror")


class Pointwise(nn.Module):
    """Looks at one voxel alone."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return 6 * x - 3


class Isotropic(nn.Module):
    """The mean over a cube of three voxels: the same from every side, up to its summation."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x):
        # counts of voxels above a level are whole numbers: sums of them are exact in any order
        pool = nn.functional.avg_pool2d if self.dims == 2 else nn.functional.avg_pool3d
        return pool((x > 0.5).float(), 3, stride=1, padding=1, divisor_override=1) - 3.5


class Fixed(Pointwise):
    """Takes frames of 40 voxels only."""

    def forward(self, x):
        if x.shape[-1] != 40:
            raise RuntimeError(f"input of {x.shape[-1]} voxels, 40 are needed")
        return super().forward(x)


class Labels(nn.Module):
    """A black box of instances: labels of vertical stripes of bright voxels."""

    def __init__(self, dims: int) -> None:
        super().__init__()

    def forward(self, x):
        return (x > 0.4) * (1 + torch.floor(8 * x))


def bank_of(
    folder: Path, model: str, *, dims: int = 2, extra: str = "", output: str = ""
) -> object:
    axes = "yx" if dims == 2 else "zyx"
    halo = ", ".join(f"{a}: 4" for a in axes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nets.py").write_text(Path(__file__).read_text())
    text = f"""schema: cte-bank/1
models:
  net:
    format: python
    source: nets:{model}
    trust: true
    arguments: {{dims: {dims}}}
    axes: {axes}
    halo: {{{halo}}}
    multiple: {{{", ".join(f"{a}: 4" for a in axes)}}}
    preprocessing:
    - {{name: scale_range, kwargs: {{min_percentile: 1, max_percentile: 99.8}}, scope: volume}}
    output: {{{output or "channel: 0, activation: sigmoid, threshold: 0.5"}}}
{extra}"""
    (folder / "bank.yaml").write_text(text)
    return load_bank(str(folder / "bank.yaml"))


def scored(volume, bank, **options) -> TileScores:
    """The numbers of all tiles of one model, (draw, tile)."""
    given = {"tile": (1, 32, 32), "perturbations": EXACT, "batch": 3}
    experiment = resolve(volume, bank, **{**given, **options})
    parts = []
    for index in range(len(experiment.blocks)):
        scores = score_block(experiment, index)
        assert not scores.failures
        parts.append(scores.tiles[0])
    return joined(parts)


def consistency(tiles: TileScores) -> np.ndarray:
    assert tiles.scored.all()
    assert not tiles.statistics["n_nan"].any()
    return nhd_of(tiles)


def nhd_of(tiles: TileScores) -> np.ndarray:
    return nhd(tiles.statistics["n_union"], tiles.statistics["n_disagree"])


@pytest.fixture(autouse=True)
def _importable(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("model", ["Pointwise", "Isotropic"])
@pytest.mark.parametrize("tile", [(1, 32, 32), (1, 24, 40), (2, 32, 32)])
def test_an_equivariant_model_is_perfectly_consistent_in_planes(tmp_path, image, model, tile):
    values = scored(open_volume(image), bank_of(tmp_path, model), tile=tile)
    assert (values.statistics["n_union"] > 0).all()
    np.testing.assert_array_equal(consistency(values), 1)


@pytest.mark.parametrize("model", ["Pointwise", "Isotropic"])
@pytest.mark.parametrize(
    ("tile", "size"), [((16, 16, 16), "10,10,10 nm"), ((8, 16, 16), None), ((8, 12, 16), None)]
)
def test_an_equivariant_model_is_perfectly_consistent_in_boxes(tmp_path, model, tile, size):
    volume = open_volume(blobs((24, 40, 40), seed=2), axes="zyx", voxel_size=size)
    values = scored(volume, bank_of(tmp_path, model, dims=3), tile=tile, batch=2)
    segmented = values.statistics["n_union"] > 0
    assert segmented.any()
    np.testing.assert_array_equal(nhd_of(values)[segmented], 1)


def test_a_model_that_resamples_is_turned_and_comes_back(tmp_path, image):
    extra = "    resample: true\n    voxel_size: {y: 20, x: 20, unit: nanometer}\n"
    volume = open_volume(image, axes="zyx", voxel_size="40,10,10 nm")
    perturbations = (*EXACT, "zoom:1.125")
    bank = bank_of(tmp_path, "Pointwise", extra=extra)
    found = consistency(scored(volume, bank, perturbations=perturbations))
    assert np.median(found, axis=1) == pytest.approx([1, 1, 1], abs=0.03)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [0.9, 1.02, 1.125])
def test_a_pointwise_model_of_a_smooth_image_hardly_sees_a_magnification(tmp_path, dims, factor):
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(3).standard_normal((20, 96, 96))
    smooth = gaussian_filter(noise, 4 if dims == 3 else (0, 4, 4)).astype(np.float32)
    tile = (1, 32, 32) if dims == 2 else (16, 32, 32)
    bank = bank_of(tmp_path, "Pointwise", dims=dims)
    values = scored(open_volume(smooth), bank, tile=tile, perturbations=(f"zoom:{factor}",))
    found = nhd_of(values)
    assert np.nanmedian(found) > 0.97
    assert np.nanmin(np.where(values.statistics["n_union"] > 50, found, np.nan)) > 0.9


def test_no_magnification_is_perfectly_consistent(target, bank_path):
    values = scored(
        open_volume(str(target)), load_bank(str(bank_path)), perturbations=("zoom:1", "gaussian:0")
    )
    np.testing.assert_array_equal(consistency(values), 1)


def test_networks_that_are_not_equivariant_are_told_from_those_that_are(target, bank_path):
    values = scored(open_volume(str(target)), load_bank(str(bank_path)))
    assert (np.median(consistency(values), axis=1) < 0.98).all()


def test_labels_of_a_black_box_come_back_with_the_tile(tmp_path, image):
    output = "channel: 0, activation: labels"
    bank = bank_of(tmp_path, "Labels", output=output)
    values = scored(open_volume(image), bank, metrics=("vrand", "nhd"))
    common, perturbed, reference = (
        values.statistics[f"pair_{name}"] for name in ("common", "perturbed", "reference")
    )
    np.testing.assert_array_equal(common, perturbed)
    np.testing.assert_array_equal(common, reference)
    assert (common > 0).all()


def test_a_network_of_one_extent_is_told_not_to_support_a_magnification(tmp_path, image):
    bank = bank_of(tmp_path, "Fixed")
    options = {"tile": (1, 32, 32), "perturbations": (*EXACT, "zoom:1.125")}
    experiment = resolve(open_volume(image), bank, **options)
    (candidate,) = experiment.candidates
    assert candidate.refused == ("zoom:1.125",)
    assert "40 are needed" in candidate.note
    assert str(experiment.primary) == "nhd@rotate"
    status = score_block(experiment, 0).status[0]
    assert (status[2] == STATUS["unsupported"]).all()
    assert (status[:2] == STATUS["scored"]).all()


def test_three_dimensional_tiles_do_not_depend_on_the_cut(tmp_path):
    bank = load_bank(str(write_bank(tmp_path / "bank", 1, dims=3, halo=4)))
    volume = open_volume(blobs((24, 40, 40), seed=2), axes="zyx", voxel_size="10,10,10 nm")
    tables = []
    for block, batch in (((1, 1, 1), 2), ((2, 3, 1), 2)):
        experiment = resolve(
            volume,
            bank,
            tile=(16, 16, 16),
            block=block,
            batch=batch,
            perturbations=(*EXACT, "zoom:1.25"),
        )
        table = {}
        for index in reversed(range(len(experiment.blocks))):
            values = encoded(score_block(experiment, index).tiles[0])
            tiles = experiment.blocks.block_at(index).tiles
            table |= {t.index: values[..., i] for i, t in enumerate(tiles)}
        tables.append(table)
    assert tables[0].keys() == tables[1].keys()
    for index, numbers in tables[0].items():
        np.testing.assert_array_equal(numbers, tables[1][index])


def test_voxels_that_are_not_finite_anywhere_the_model_looks_leave_the_tile_out(tmp_path, image):
    broken = image.astype(np.float32)
    broken[0, 37, 2] = np.nan  # in no frame of the first tile, but in its magnified one
    bank = bank_of(tmp_path, "Pointwise")
    status = []
    for perturbations in (("mirror",), ("mirror", "zoom:0.8")):
        values = scored(open_volume(broken), bank, perturbations=perturbations, block=(1, 1, 1))
        status.append(values.status[:, 0])
    assert (status[0] == STATUS["scored"]).all()
    assert (status[1] == STATUS["non_finite_input"]).all()


MOVED = ["rotate", "mirror", "zoom:1.25", "zoom:0.8"]


@pytest.mark.parametrize(
    ("dims", "tile"), [(2, (1, 32, 40)), (2, (2, 32, 32)), (3, (16, 16, 16)), (3, (12, 16, 24))]
)
def test_a_pass_that_is_moved_costs_less_and_gives_what_the_whole_network_gives(
    tmp_path, monkeypatch, dims, tile
):
    """It is cut to where the tile lies then, whichever way it was turned."""
    volume = open_volume(blobs((24, 96, 96)))
    bank = load_bank(str(write_bank(tmp_path, 1, dims=dims, halo=12)))
    experiment = resolve(volume, bank, tile=tile, perturbations=MOVED, batch=2)
    draws = experiment.draws

    def predicted() -> tuple[np.ndarray, int]:
        ready = predictor(experiment.candidates[0], experiment.inference)
        ready.open()
        maps = [passes for _, _, passes in predict_tiles(experiment, 0, draws)]
        return np.array([np.stack(passes) for passes in maps[:6]]), flops_per_tile(ready, draws)

    got, cheap = predicted()
    monkeypatch.setattr("cte_dask.inference.predictor.moved_path", lambda *_, **__: None)
    want, dear = predicted()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert cheap < 0.9 * dear


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 2])
@pytest.mark.parametrize(("dims", "tile"), [(2, (2, 32, 40)), (3, (16, 20, 16))])
def test_layers_of_a_network_that_resamples_run_where_the_tile_lies_too(
    tmp_path, monkeypatch, dims, tile, scale
):
    volume = open_volume(blobs((tile[0], 2 * tile[1], tile[2])))
    bank = load_bank(str(write_bank(tmp_path, 1, dims=dims, halo=8)))
    asked = ["dropout:0.2", "gaussian:0.1", "mirror", "zoom:1.25"]

    def predicted() -> tuple[np.ndarray, int]:
        loaded.READY.clear()
        experiment = resolve(volume, bank, tile=tile, perturbations=asked, scales=[scale])
        ready = predictor(experiment.candidates[0], experiment.inference)
        maps = [passes for _, _, passes in predict_tiles(experiment, 0, experiment.draws)]
        cost = flops_per_tile(ready, experiment.draws)
        return np.array([np.stack(passes) for passes in maps]), cost

    got, cheap = predicted()
    monkeypatch.setattr("cte_dask.inference.graph.feature_path.cut_to", lambda *_: None)
    monkeypatch.setattr("cte_dask.inference.graph.proving.cut_to", lambda *_: None)
    want, dear = predicted()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert cheap < dear
