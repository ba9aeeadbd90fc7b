"""One model is several candidates: the target at other sizes, inverted, prepared otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import blobs, write_bank
from scipy.ndimage import zoom

import cte_dask
from cte_dask.consistency.accuracy import f1
from cte_dask.demo import bank_path as demo_bank
from cte_dask.inference import needs as measuring
from cte_dask.inference.model_size import bytes_of
from cte_dask.inference.outputs import resized
from cte_dask.models import load_bank
from cte_dask.models.spec import Variant
from cte_dask.scoring import loaded
from cte_dask.scoring.block_reader import margins_of
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles, score_block
from cte_dask.volume import open_volume

TILE = (1, 32, 32)


def settle(image, bank, **options):
    defaults = {"tile": TILE, "perturbations": ["dropout:0.5"]}
    volume = image if not isinstance(image, np.ndarray) else open_volume(image)
    return resolve(volume, bank, **{**defaults, **options})


def bank_of(folder, count: int = 1, *, variants: str = "", **options):
    path = write_bank(folder, count, halo=4, **options)
    path.write_text(path.read_text() + (f"    variants: {variants}\n" if variants else ""))
    return load_bank(path)


def references(experiment) -> dict[str, np.ndarray]:
    """The unperturbed foreground of each candidate, tiles stitched to the target."""
    stitched = {c.name: np.zeros(experiment.volume.shape) for c in experiment.candidates}
    for index in range(len(experiment.blocks)):
        for name, tile, (reference,) in predict_tiles(experiment, index, ()):
            box = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
            stitched[name][box] = reference
    return stitched


def test_half_size_is_the_plain_model_on_the_target_downsampled_by_two(tmp_path):
    """Its frames hold the same voxels: before the way back, not a bit of interpolation."""
    bank = bank_of(tmp_path)
    coarse = blobs((1, 96, 96), seed=3).astype(np.float32)
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
    half = settle(fine, bank, tile=(1, 64, 64), scales=[0.5])
    plain = settle(coarse, bank, tile=(1, 32, 32))
    # the same statistics, so that preprocessing is the same to the bit
    half = replace(half, intensity=plain.intensity)
    assert [c.name for c in half.candidates] == ["model-0 ×0.5"]
    assert half.candidates[0].scale == (1.0, 0.5, 0.5)
    got, want = references(half)["model-0 ×0.5"], references(plain)["model-0"]
    assert got.shape == (1, 192, 192)
    logits = torch.from_numpy(np.log(want / (1 - want)))[None]
    back = torch.sigmoid(resized(logits, (1, 192, 192)))[0].numpy()
    # the tile in the middle: at the target's edges voxels are mirrored before they are averaged,
    # and a frame is interpolated by itself, so that at seams a voxel has another neighbour
    middle = np.s_[:, 65:127, 65:127]
    np.testing.assert_allclose(got[middle], back[middle], atol=1e-4)
    assert want.std() > 0.1


def test_3d_models_are_magnified_along_all_axes(tmp_path):
    path = write_bank(tmp_path, 1, dims=3, halo=4)
    experiment = settle(blobs((16, 40, 40)), load_bank(path), tile=(8, 16, 16), scales=[0.5, 2])
    assert [c.scale for c in experiment.candidates] == [(0.5,) * 3, (2.0,) * 3]
    half, double = (c.frame((8, 16, 16)) for c in experiment.candidates)
    assert half.before == (8, 8, 8)
    assert double.before == (2, 2, 2)
    predicted = {
        name: maps for name, tile, maps in predict_tiles(experiment, 0, ()) if not tile.index
    }
    assert [m.shape for (m,) in predicted.values()] == [(8, 16, 16)] * 2


def test_scales_come_on_top_of_matched_voxel_sizes(tmp_path):
    path = write_bank(tmp_path, 1, halo=4)
    size = "    voxel_size: {y: 20, x: 20, unit: nanometer}\n"
    path.write_text(path.read_text() + size)
    volume = open_volume(blobs((1, 64, 64)), voxel_size="40,10,10 nm")
    plain, half = settle(volume, load_bank(path), scales=[1, 0.5]).candidates
    assert "0.5× along y" in plain.note
    assert half.note == "", "the network sees voxels of the size that it was trained at"
    path.write_text(path.read_text() + "    resample: true\n")
    matched = settle(volume, load_bank(path), scales=[1, 0.5, 2]).candidates
    assert [c.scale for c in matched] == [(1, 0.5, 0.5), (1, 0.25, 0.25), (1, 1, 1)]


def test_without_scales_nothing_is_new(tmp_path):
    image, bank = blobs((1, 64, 64)), bank_of(tmp_path)
    plain, at_one = settle(image, bank), settle(image, bank, scales=(1,))
    assert plain.digest() == at_one.digest()
    assert [c.name for c in at_one.candidates] == ["model-0"]
    said = plain.to_dict()
    assert "excluded_ways" not in said
    assert not {"candidate", "variants"} & set(said["models"][0])


def test_a_run_with_other_candidates_is_another_run(tmp_path):
    image = blobs((1, 64, 64))
    ways = [
        settle(image, bank_of(tmp_path / "a")),
        settle(image, bank_of(tmp_path / "a"), scales=[0.5]),
        settle(image, bank_of(tmp_path / "a"), scales=[0.5, 1]),
        settle(image, bank_of(tmp_path / "b", variants="[{invert: true}]")),
        settle(image, bank_of(tmp_path / "c", variants="[{preprocessing: []}]")),
        settle(image, bank_of(tmp_path / "d", variants="[{name: other, invert: true}]")),
    ]
    assert len({e.digest() for e in ways}) == len(ways)


def test_a_candidates_numbers_do_not_depend_on_the_others(tmp_path):
    image, bank = blobs((1, 96, 96)), bank_of(tmp_path, 2)
    alone = score_block(settle(image, bank), 0)
    among = settle(image, bank, scales=[0.5, 1, 2])
    scores = score_block(among, 0)
    names = [c.name for c in among.candidates]
    assert not scores.failures
    for number, name in enumerate(["model-0", "model-1"]):
        got, want = scores.tiles[names.index(name)].statistics, alone.tiles[number].statistics
        for statistic, numbers in want.items():
            np.testing.assert_array_equal(got[statistic], numbers)
    half = scores.tiles[names.index("model-0 ×0.5")].statistics["n_union"]
    assert not np.array_equal(half, alone.tiles[0].statistics["n_union"])


def test_a_block_is_read_once_and_weights_are_loaded_once_for_all_candidates(tmp_path, monkeypatch):
    loads, reads = [], []
    bank = bank_of(tmp_path, 2)
    experiment = settle(blobs((1, 64, 64)), bank, scales=[0.5, 1, 2])
    loaded.READY.clear()
    load, read = (
        loaded.Predictor.__init__.__globals__["load_network"],
        type(experiment.volume).read_channels,
    )
    monkeypatch.setitem(
        loaded.Predictor.__init__.__globals__,
        "load_network",
        lambda spec, **options: loads.append(spec.name) or load(spec, **options),
    )
    monkeypatch.setattr(
        type(experiment.volume),
        "read_channels",
        lambda self, *box: reads.append(box) or read(self, *box),
    )
    assert not score_block(experiment, 0).failures
    assert sorted(loads) == ["model-0", "model-1"]
    assert len(reads) == 1
    before, _ = margins_of(experiment.grid.tile, experiment.candidates, experiment.perturbations)
    assert before == (0, 8, 8), "the widest: a halo of 4 at ×0.5"
    sizes = [bytes_of(p) for p in loaded.READY.values()]
    assert len(sizes) == 6
    assert loaded._held() == sum(sizes) / 3


def test_a_candidate_whose_halo_exceeds_the_tile_is_excluded_alone(tmp_path):
    experiment = settle(blobs((1, 64, 64)), bank_of(tmp_path), scales=[0.1, 1])
    assert [c.name for c in experiment.candidates] == ["model-0"]
    assert (
        "halo of 40 voxels along y at ×0.1 is larger than the tile (32)"
        in (experiment.excluded["model-0 ×0.1"])
    )
    assert experiment.way_of("model-0 ×0.1") == {"model": "model-0", "scale": 0.1}
    assert experiment.way_of("model-0") == {"model": "model-0", "scale": 1.0}


def test_a_model_that_does_not_load_excludes_its_candidates_and_is_tried_once(
    tmp_path, monkeypatch
):
    bank = bank_of(tmp_path, 2)
    (tmp_path / "model-0.safetensors").write_bytes(b"broken")
    tried = []
    needs = measuring.measured
    monkeypatch.setattr(
        measuring,
        "measured",
        lambda spec, **kwargs: tried.append(spec.name) or needs(spec, **kwargs),
    )
    experiment = settle(blobs((1, 64, 64)), bank, scales=[0.5, 1])
    assert [c.name for c in experiment.candidates] == ["model-1 ×0.5", "model-1"]
    assert set(experiment.excluded) == {"model-0 ×0.5", "model-0"}
    assert tried.count("model-1") == 1


def test_inverted_candidates_see_one_minus_the_canonical_image(tmp_path):
    """On the target turned upside down they are the plain model on the target."""
    image = blobs((1, 64, 64)).astype(np.float32)
    experiment = settle(image, bank_of(tmp_path, variants="[{invert: true}]"))
    low, high = (experiment.intensity.percentile(q) for q in (1.0, 99.8))
    turned = settle(low + high - image, bank_of(tmp_path / "plain"))
    upright = references(experiment)
    assert list(upright) == ["model-0", "model-0 inverted"]
    seen = references(turned)["model-0"]
    np.testing.assert_allclose(upright["model-0 inverted"], seen, atol=0.02)
    assert np.abs(upright["model-0"] - seen).max() > 0.2


def test_a_variants_preprocessing_is_what_its_network_sees(tmp_path):
    steps = "[{name: zero_mean_unit_variance}]"
    both = settle(blobs((1, 64, 64)), bank_of(tmp_path, variants=f"[{{preprocessing: {steps}}}]"))
    text = (tmp_path / "bank.yaml").read_text()
    own = text.replace(
        "- name: scale_range\n      kwargs: {min_percentile: 1, max_percentile: 99.8}",
        "- name: zero_mean_unit_variance",
    )
    (tmp_path / "bank.yaml").write_text(own.partition("    variants")[0])
    alone = settle(blobs((1, 64, 64)), load_bank(tmp_path / "bank.yaml"))
    got = references(both)["model-0 zero_mean_unit_variance"]
    np.testing.assert_array_equal(got, references(alone)["model-0"])


@pytest.mark.parametrize("scales", [[0], [-1], [float("nan")], [1, 1], "1", []])
def test_bad_scales_are_refused_before_anything_is_loaded(tmp_path, scales, monkeypatch):
    bank = bank_of(tmp_path)
    monkeypatch.setattr(measuring, "measured", lambda *_, **__: pytest.fail("loaded"))
    value = scales if isinstance(scales, str) or not scales else scales[0]
    with pytest.raises(ValueError, match="scale") as error:
        settle(blobs((1, 64, 64)), bank, scales=scales)
    assert f"{value!r}" in str(error.value)


def test_the_lazy_scores_have_a_row_a_candidate(tmp_path):
    data = cte_dask.score(
        open_volume(blobs((1, 64, 64))),
        bank_of(tmp_path, 2),
        tile=TILE,
        perturbations=["dropout:0.2"],
        scales=[0.5, 1],
    )
    names = ["model-0 ×0.5", "model-0", "model-1 ×0.5", "model-1"]
    assert data.model.values.tolist() == names
    assert sorted(m.name for m in cte_dask.rank(data).models) == sorted(names)


@pytest.fixture(scope="module")
def nuclei(data_dir) -> tuple[np.ndarray, np.ndarray]:
    """Real fluorescent nuclei, and where they are; `nuclei-clump256` saw none of them."""
    with np.load(data_dir / "n_dsb_d2_blurry.npz") as pack:
        chosen = np.flatnonzero(pack["split"] == "test")[:2]
        return pack["raw"][chosen, :256, :256], pack["label"][chosen, :256, :256] > 0


def test_a_target_magnified_by_three_is_recovered_at_a_third(nuclei):
    raw, truth = nuclei
    bank = load_bank(demo_bank()).select(["nuclei-clump256"])
    large = zoom(raw, (1, 3, 3), order=1, grid_mode=True, mode="nearest")
    large_truth = truth.repeat(3, axis=1).repeat(3, axis=2)
    (native,) = references(settle(raw, bank, tile=(1, 256, 256))).values()
    maps = references(settle(large, bank, tile=(1, 384, 384), scales=[0.333, 1]))
    third, as_it_is = maps["nuclei-clump256 ×0.333"], maps["nuclei-clump256"]
    reached = f1(native > 0.5, truth)
    assert reached > 0.8
    assert f1(third > 0.5, large_truth) >= 0.95 * reached
    assert f1(as_it_is > 0.5, large_truth) < 0.5 * reached
    assert (third > 0.5).mean() == pytest.approx((native > 0.5).mean(), rel=0.05)


def test_the_way_of_a_candidate_is_part_of_its_value(tmp_path):
    plain, half = settle(blobs((1, 64, 64)), bank_of(tmp_path), scales=[1, 0.5]).candidates
    assert half.variant == Variant(scale=0.5)
    assert plain.spec == half.spec
    assert plain != half
