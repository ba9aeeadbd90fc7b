"""Models that see several channels of a target, ranked beside those that see one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from channel_networks import IMAGE, network

import cte_dask
from cte_dask.inference.inputs import TileGroup, perturbed
from cte_dask.models.bank import ModelBank
from cte_dask.models.spec import ModelSpec
from cte_dask.perturb import Draw, Perturbation
from cte_dask.perturb.views import TileContext, view_of
from cte_dask.ranking.rank import rank
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles, score_block
from cte_dask.scoring.settings import TargetOptions
from cte_dask.scoring.target import open_target
from cte_dask.tiles import Tile
from cte_dask.volume import intensity_statistics, open_volume, write_ome_zarr
from cte_dask.volume.channels import channel_indices
from cte_dask.volume.zarr_source import ZarrSource

NAMES = ["phase", "red", "green", "blue"]
OPTIONS = {
    "perturbations": ("dropout:0.2", "gaussian:0.1", "brightness:0.1", "mirror"),
    "tile": (1, 32, 32),
}


def model(name: str, inputs: int, **keys) -> ModelSpec:
    return ModelSpec(
        name=name,
        format="python",
        source="channel_networks:network",
        arguments={"in_channels": inputs},
        trust=True,
        halo={"y": 8, "x": 8},
        multiple={"y": 2, "x": 2},
        preprocessing=[
            {"name": "scale_range", "kwargs": {"min_percentile": 1, "max_percentile": 99.8}}
        ],
        **keys,
    )


def bank(*models: ModelSpec) -> ModelBank:
    return ModelBank(models)


def target(order=(0, 1, 2, 3), *, image=IMAGE, channel=None):
    named = xr.DataArray(
        image[list(order)], dims=("c", "z", "y", "x"), coords={"c": [NAMES[i] for i in order]}
    )
    return open_volume(named, channel=order.index(0) if channel is None else channel)


MIXED = bank(
    model("single", 1),
    model("two", 2, channels=("Phase", "green")),
    model("colour", 3, channels="rgb"),
    model("grey", 3, in_channels=3),
)


def scores(volume, models, **options):
    experiment = resolve(volume, models, **{**OPTIONS, **options})
    assert not experiment.excluded
    (block,) = [score_block(experiment, i) for i in range(len(experiment.blocks))]
    assert not block.failures
    return block


def assert_same(one, other):
    for model in range(len(one.status)):
        assert_same_tiles(one.tiles[model], other.tiles[model])


def assert_same_tiles(one, other):
    np.testing.assert_array_equal(one.status, other.status)
    for name, values in one.statistics.items():
        np.testing.assert_array_equal(values, other.statistics[name])


def test_models_of_one_two_and_three_channels_are_ranked_together():
    experiment = resolve(target(), MIXED, **OPTIONS)
    assert [c.channels for c in experiment.candidates] == [(), (0, 2), (1, 2, 3), ()]
    assert [c.note for c in experiment.candidates] == [
        "",
        "sees channels phase, green",
        "sees channels red, green, blue",
        "sees one channel, repeated over its 3 inputs: name others with channels in the bank",
    ]
    assert experiment.volume.channels == (0, 1, 2, 3)
    ranking = rank(cte_dask.score(target(), MIXED, **OPTIONS).compute())
    assert {m.name for m in ranking.models if m.rank} == {"single", "two", "colour", "grey"}


def test_each_input_of_a_network_sees_the_channel_that_the_bank_gives_it():
    experiment = resolve(target(), MIXED, **OPTIONS)
    seen = {name: next(p for m, _, p in predict_tiles(experiment, 0, []) if m == name)[0]
            for name in ("two", "colour")}  # fmt: skip
    for name, channels in (("two", (0, 2)), ("colour", (1, 2, 3))):
        scaled = []
        for channel in channels:
            low, high = np.percentile(IMAGE[channel], [1, 99.8])
            scaled.append((np.pad(IMAGE[channel, 0], 8, "reflect") - low) / (high - low + 1e-6))
        x = torch.from_numpy(np.stack(scaled)[None, :, :48, :48].astype("float32"))
        with torch.no_grad():
            expected = torch.sigmoid(network(len(channels))(x))[0, :, 8:40, 8:40]
        np.testing.assert_allclose(seen[name], expected, atol=1e-5)


def test_swapping_the_channels_and_their_mapping_together_changes_nothing():
    by_name = scores(target(), MIXED)
    assert_same(by_name, scores(target((2, 0, 3, 1)), MIXED))
    numbers = {"two": (1, 0), "colour": (3, 0, 2)}
    numbered = bank(*(m.model_copy(update={"channels": numbers.get(m.name, ())}) for m in MIXED))
    assert_same(by_name, scores(target((2, 0, 3, 1)), numbered))
    swapped = bank(model("two", 2, channels=("green", "phase")))
    with pytest.raises(AssertionError):
        assert_same(scores(target(), bank(MIXED.models[1])), scores(target(), swapped))


def test_steps_of_several_channels_go_with_the_channels_that_the_bank_gives():
    steps = [
        {"name": "fixed_zero_mean_unit_variance", "kwargs": {"mean": [40, 90], "std": [30, 50]}},
        {"name": "scale_range", "kwargs": {"channel_wise": False}},
        {"name": "scale_linear", "kwargs": {"gain": 2}, "channel": 1},
        {"name": "zero_mean_unit_variance", "kwargs": {"channel_wise": False}, "scope": "tile"},
    ]

    def of(preprocessing, channels=("phase", "green")):
        entry = model("two", 2, channels=channels).model_dump() | {"preprocessing": preprocessing}
        return bank(ModelSpec.model_validate(entry))

    plain = scores(target(), of(steps))
    assert_same(plain, scores(target((2, 0, 3, 1)), of(steps)))
    assert_same(plain, scores(target((2, 0, 3, 1)), of(steps, (1, 0))))
    for other in (steps[1:], steps[:1] + steps[2:], steps[:2] + steps[3:], steps[:3]):
        with pytest.raises(AssertionError):
            assert_same(plain, scores(target(), of(other)))


def test_scores_of_a_model_do_not_depend_on_what_others_see():
    image = IMAGE.copy()
    image[0, :, :32, :32] = 7  # the first tile holds nothing in one channel
    together = scores(target(image=image), MIXED)
    for number, one in enumerate(MIXED):
        alone = scores(target(image=image), bank(one))
        assert_same_tiles(alone.tiles[0], together.tiles[number])
    constant = together.status == STATUS["constant"]
    assert constant[[0, 3], :, 0].all()
    assert not constant[[1, 2]].any()


def test_perturbations_of_several_channels_belong_together():
    one = IMAGE[0, :1, :48, :48].astype("float32")
    intensity = intensity_statistics(open_volume(IMAGE[0]))
    context = TileContext((1, 32, 32), 2, (0, 8, 8), (1, 2, 2))
    tile = Tile(0, (0, 0, 0), (1, 32, 32))
    group = TileGroup(np.stack([one, one])[None], [tile], [intensity] * 2, seed=1)

    def changed(name):
        perturbation = Perturbation.parse(name)
        view, plain = view_of(perturbation, context), view_of(None, context)
        images, _ = perturbed(group, Draw(perturbation, 0), plain=plain, view=view)
        assert images.shape == (1, 2, 1, 48, 48)
        return images[0, 0] - one, images[0, 1] - one

    for name in ("brightness:0.1", "contrast:0.5", "gamma:1.4", "mirror", "rotate"):
        first, second = changed(name)
        assert np.abs(first).max() > 0
        np.testing.assert_array_equal(first, second)
    first, second = changed("gaussian:0.1")
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    assert first.std() == pytest.approx(second.std(), rel=0.1)


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        (("phase", "nuclei"), "it needs a channel 'nuclei': the target has 0 = phase, 1 = red"),
        ((0, 4), "it needs channel 4: the target has 0 = phase"),
    ],
)
def test_a_model_that_needs_what_the_target_has_not_is_left_out_with_that_reason(channels, reason):
    experiment = resolve(
        target(), bank(model("single", 1), model("two", 2, channels=channels)), **OPTIONS
    )
    assert reason in experiment.excluded["two"]
    assert experiment.volume.channels == ()


def test_colours_of_a_picture_without_names_are_its_first_three_channels():
    picture = open_volume(IMAGE[:, 0], axes="cyx", channel=0)
    assert channel_indices(picture, ("rgb",)) == (0, 1, 2)
    assert channel_indices(picture, ("Green", 3)) == (1, 3)
    with pytest.raises(ValueError, match=r"'green': the target has channels 0..1, without names"):
        channel_indices(open_volume(IMAGE[:2, 0], axes="cyx", channel=0), ("green",))


def test_a_grey_target_has_no_colours():
    volume = open_volume(IMAGE[0])
    experiment = resolve(volume, MIXED, **OPTIONS)
    assert experiment.excluded == {
        "two": "it needs a channel 'Phase': the target has one channel",
        "colour": "it needs a channel 'red': the target has one channel",
    }


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"channels": (0, 1), "in_channels": 3}, "are 2, in_channels 3"),
        ({"channels": (-1,)}, "greater than or equal to 0"),
        ({"channels": ("",)}, "at least 1"),
        ({"channels": (0.5,)}, "channels"),
    ],
)
def test_channels_that_make_no_sense_are_refused(keys, error):
    with pytest.raises(ValueError, match=error):
        model("bad", 2, **keys)


def test_channels_are_named_alone_or_listed_and_tell_the_inputs():
    assert model("one", 1, channels="nuclei").channels == ("nuclei",)
    assert model("one", 1, channels=2).in_channels == 1
    assert model("two", 2, channels=[1, 0]).in_channels == 2
    assert model("rgb", 3, channels="rgb").in_channels == 3
    assert model("repeated", 3, channels=1, in_channels=3).in_channels == 3
    assert model("plain", 1).digest() == model("plain", 1, channels=()).digest()


@pytest.mark.parametrize(
    ("chunk", "channels", "reads"),
    [
        (4, (0, 3), [slice(0, 4)]),
        (2, (3, 0), [slice(0, 4)]),
        (1, (3, 0, 1), [slice(0, 2), slice(3, 4)]),
        (1, (1, 2), [slice(1, 3)]),
    ],
)
def test_a_chunk_of_several_channels_is_read_once_and_none_for_nothing(
    tmp_path, monkeypatch, chunk, channels, reads
):
    write_ome_zarr(
        tmp_path / "t.zarr",
        IMAGE,
        axes="czyx",
        voxel_size_nm=(9, 9, 9),
        chunks=(chunk, 1, 32, 32),
        n_levels=1,
    )
    volume = open_volume(tmp_path / "t.zarr", channel=0)
    seen = []
    read = ZarrSource.read

    def counted(self, selection):
        seen.append(selection[0])
        return read(self, selection)

    monkeypatch.setattr(ZarrSource, "read", counted)
    voxels = replace(volume, channels=channels).read_channels((0, 0, 0), (1, 64, 96))
    np.testing.assert_array_equal(voxels, IMAGE[list(channels), :1])
    assert seen == reads


def test_a_bank_that_names_all_its_channels_needs_no_channel_of_the_target(tmp_path):
    path = tmp_path / "t.zarr"
    write_ome_zarr(path, IMAGE, axes="czyx", voxel_size_nm=(9, 9, 9), chunks=(1, 1, 32, 32))
    options = TargetOptions(str(path))
    missing = model("missing", 1, channels="nuclei")
    volume = open_target(options, bank(missing, model("one", 1, channels=2)))
    assert (volume.channel, volume.channels) == (2, ())
    with pytest.raises(ValueError, match="choose --channel"):
        open_target(options, bank(model("one", 1, channels=2), model("any", 1)))
