"""What networks of other forms need is found, and they are scored like any other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import odd_outputs
import pytest
import torch
from conftest import blobs

from cte_dask import score
from cte_dask.inference.graph.feature_path import Split, feature_path
from cte_dask.inference.graph.places import inner_view
from cte_dask.inference.needs import with_extents, with_needs
from cte_dask.inference.trial import check_model
from cte_dask.models.bank import ModelBank
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.volume import open_volume


def model(make: str, arguments: dict[str, Any] | None = None, **keys: Any) -> ModelSpec:
    entry = {"name": f"{make} {arguments or ''}".strip(), "format": "python", "trust": True}
    entry |= {"source": f"odd_outputs:{make}", "arguments": arguments or {}}
    return ModelSpec.model_validate(entry | keys)


@pytest.mark.parametrize("extent", [48, 64, 96])
def test_the_only_extent_that_a_network_takes_is_found(extent: int) -> None:
    spec, network = with_extents(model("positions", {"extent": extent}))
    assert spec.extent == spec.multiple == {"y": extent, "x": extent}
    assert network.adaptations == (
        f"it takes {extent}×{extent} voxels alone: larger tiles are run in windows",
    )
    halo = with_needs(spec.model_copy(update={"multiple": None}), limit=256).halo
    assert halo is not None
    assert 0 < halo["y"] <= extent // 4


def test_other_networks_have_no_such_extent_and_a_coarse_output_decides_the_multiple() -> None:
    for make, arguments, multiple in (("formed", {"form": "list"}, 2), ("coarse", {}, 4)):
        spec, network = with_extents(model(make, arguments))
        assert (spec.extent, spec.multiple) == (None, {"y": multiple, "x": multiple})
        assert network.window is None
    assert with_extents(model("coarse", {"dims": 3}, axes="zyx"))[0].multiple_zyx == (4, 4, 4)


def test_channels_that_stand_last_are_found_and_an_unfit_network_keeps_its_first_reason() -> None:
    spec, _ = with_extents(model("channels_last_in"))
    assert spec.layout == "channels_last"
    with pytest.raises(ValueError, match=r"no input extent up to .* takes 3 channels"):
        with_extents(model("three_channels"))


def test_outputs_between_which_nothing_tells_are_the_reason_and_no_extent_is_searched_for() -> None:
    with pytest.raises(ModelError, match=r"^model 'twice': it gives '0' \(1, 1, .* output\.index"):
        check_model(model("twice", name="twice"))


@pytest.mark.slow  # PyTorch's exporter
def test_an_archive_of_one_extent_is_a_black_box_in_windows_and_a_grey_box_without(
    tmp_path: Path,
) -> None:
    program = torch.export.export(odd_outputs.positions(48), (torch.zeros(1, 1, 48, 48),))
    torch.export.save(program, path := tmp_path / "positions.pt2")
    spec = ModelSpec(name="archive", format="torch_export", source=str(path))
    for tile, grey in ((16, True), (96, False)):
        experiment = resolve(
            open_volume(blobs((1, 96, 96))),
            ModelBank((spec,)),
            perturbations=["dropout:0.2", "mirror"],
            tile=(1, tile, tile),
        )
        (candidate,) = experiment.candidates
        assert candidate.features == grey, candidate.note
        assert ("cannot be reached in a network that is run in windows" in candidate.note) != grey


def test_a_network_without_padding_is_not_taken_for_one_of_low_resolution() -> None:
    keys = {"halo": {"y": 16, "x": 16}, "multiple": {"y": 1, "x": 1}}
    with pytest.raises(ModelError, match="neither the same extent nor one fraction of it"):
        check_model(model("unpadded", **keys))


def test_a_check_says_what_is_done_to_a_networks_input_and_output() -> None:
    report = check_model(model("coarse"))
    assert report.output_shape == report.input_shape == (1, 1, 64, 64)
    assert report.notes == ("its output has 1/4 of the resolution: interpolated",)
    assert report.bottleneck == ("second",), "not the head, whose output is no feature map"


@pytest.mark.parametrize("dims", [2, 3])
def test_passes_of_a_coarse_network_are_shared_and_cut_to_the_core(dims: int) -> None:
    extent, core = (96,) * dims, (slice(32, 64),) * dims
    network = load_network(model("coarse", {"dims": dims, "stride": 2}))
    x = torch.rand(1, 1, *extent) * 255
    path = feature_path(network, x, core=core)
    assert isinstance(path, Split)
    assert path.core is not None
    mask = torch.ones(1, 16, *(1,) * dims)
    mask[:, ::3] = 0
    cropped = path.run(x, [mask], cropped=True)
    with torch.no_grad():
        network.forward.get_submodule("second").register_forward_hook(lambda _m, _x, y: y * mask)
        want = inner_view(network.forward(x), core)
    torch.testing.assert_close(cropped, want, rtol=1e-4, atol=1e-4)


def test_a_segformer_is_a_grey_box_at_its_deepest_maps() -> None:
    report = check_model(model("segformer", output={"channel": 1, "activation": "softmax"}))
    assert report.output_shape == (1, 2, 64, 64)
    assert report.bottleneck == ("linear.2",), "the last map of the deepest extent"
    assert "its output has 1/4 of the resolution: interpolated" in report.notes
    network, x = load_network(model("segformer")), 255 * torch.rand(1, 1, 64, 64)
    assert isinstance(feature_path(network, x), Split)


SAME = ("image", "reversed")
OPTIONS: dict[str, Any] = {
    "perturbations": ["dropout:0.2", "gaussian:0.1"],
    "metrics": ["nhd", "vrand"],
    "tile": (1, 32, 32),
}


def test_however_a_network_gives_its_image_its_scores_are_the_same() -> None:
    known = {"halo": {"y": 8, "x": 8}, "multiple": {"y": 2, "x": 2}}
    formed = (model("formed", {"form": form}, **known) for form in SAME)
    bank = ModelBank((*formed, model("channels_last_in", layout="channels_last", **known)))
    scores = score(open_volume(blobs((1, 64, 64))), bank, **OPTIONS).compute()
    assert len(scores.model) == len(bank)
    for name in ("nhd", "vrand"):
        values = scores[name].to_numpy()
        assert np.isfinite(values[0]).any()
        for other in values[1:]:
            np.testing.assert_allclose(other, values[0], atol=1e-5)
    notes = scores.attrs["notes"]
    assert "takes output 1 of 2" in notes["formed {'form': 'reversed'}"]
    assert "channels last" in notes["channels_last_in"]


def test_a_network_of_one_extent_is_scored_on_larger_tiles_as_a_grey_box() -> None:
    image = blobs((1, 96, 96))
    spec = model("positions", {"extent": 48})
    experiment = resolve(
        open_volume(image), ModelBank((spec,)), perturbations=["dropout:0.2"], tile=(1, 96, 96)
    )
    (candidate,) = experiment.candidates
    assert candidate.features
    assert "it takes 48×48 voxels alone" in candidate.note
    assert candidate.spec.multiple == {"y": 1, "x": 1}
    assert candidate.spec.halo is not None
    halo = candidate.spec.halo["y"]
    path = predictor(candidate, experiment.inference).path
    assert isinstance(path, Split)
    ((_, _, prediction),) = predict_tiles(experiment, 0, [])
    frame = open_volume(image).read((0, -halo, -halo), (1, 96, 96))[0].astype(np.float32)
    network = odd_outputs.positions(48)
    with torch.no_grad():
        window = torch.from_numpy(frame[:48, :48])[None, None]
        want = torch.sigmoid(network(window))[0, 0, halo : 48 - halo, halo : 48 - halo]
    got = prediction[0][0, : 48 - 2 * halo, : 48 - 2 * halo]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_tile_that_fits_is_read_at_the_only_extent() -> None:
    experiment = resolve(
        open_volume(blobs((1, 96, 96))),
        ModelBank((model("positions", {"extent": 64}),)),
        perturbations=["dropout:0.2"],
        tile=(1, 32, 32),
    )
    (candidate,) = experiment.candidates
    assert candidate.frame((1, 32, 32)).extent == (1, 64, 64)


def of_colours(tmp_path: Path, kind: str, **keys: Any) -> ModelSpec:
    """Return a model of three channels, of which the bank says what `keys` say."""
    torch.manual_seed(0)
    network, x = UNet(dims=2, features=(4, 8), in_channels=3).eval(), torch.rand(1, 3, 64, 64)
    path = tmp_path / "colours.pt"
    entry: dict[str, Any] = {"name": "colours", "format": kind, "source": str(path)}
    match kind:
        case "state_dict":
            torch.save(network.state_dict(), path)
            entry["architecture"] = "cte_dask.models.unet:UNet"
            entry["arguments"] = {"dims": 2, "features": [4, 8], "in_channels": 3}
        case "torchscript":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # making one is deprecated, and so noisy
                torch.jit.save(torch.jit.trace(network, x), path)
        case "torch_export":
            torch.export.save(torch.export.export(network, (x,)), path)
    return ModelSpec.model_validate(entry | keys)


@pytest.mark.parametrize("keys", [{}, {"halo": {"y": 8, "x": 8}, "multiple": {"y": 2, "x": 2}}])
@pytest.mark.parametrize("kind", ["state_dict", "torchscript", "torch_export"])
def test_a_network_of_other_channels_than_the_bank_says_is_told_with_the_remedy(
    kind: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    spec = of_colours(tmp_path, kind, **keys)
    remedy = (
        "its network takes 3 channels, not 1: say in_channels: 3 in the bank, which repeats one "
        "channel of the target, or channels: rgb"
    )
    with pytest.raises(ModelError) as caught:
        check_model(spec)
    assert str(caught.value) == f"model 'colours': {remedy}"
    bank = ModelBank((spec, model("coarse", {})))
    volume = open_volume(blobs((1, 64, 64)))
    experiment = resolve(volume, bank, perturbations=("gaussian:0.1",), tile=(1, 64, 64))
    assert experiment.excluded == {"colours": remedy}
    repeated = spec.model_copy(update={"in_channels": 3})
    assert not resolve(
        volume, ModelBank((repeated,)), perturbations=("gaussian:0.1",), tile=(1, 64, 64)
    ).excluded


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"in_channels": 2}, "takes 3 channels, not 2: say in_channels: 3 in the bank"),
        ({"channels": [0, 1]}, "takes 3 channels, not 2: name 3 channels of the target"),
    ],
)
def test_channels_that_are_named_but_too_few_are_told_too(
    keys: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=remedy):
        check_model(of_colours(tmp_path, "state_dict", **keys))


def test_a_network_of_one_channel_says_so_where_the_bank_has_more() -> None:
    with pytest.raises(ModelError, match="takes 1 channel, not 3: say in_channels: 1 in the bank"):
        check_model(model("coarse", {}, in_channels=3))
