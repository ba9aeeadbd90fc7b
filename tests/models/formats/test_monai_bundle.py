"""MONAI bundles: the prediction of MONAI's own parser and inferer, and nothing evaluated."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_networks import responsive_unet

from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.inference.inputs import samples
from cte_dask.inference.preprocess import preprocess
from cte_dask.inference.trial import check_model
from cte_dask.models.described import described
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError
from cte_dask.models.source import pinned
from cte_dask.models.spec import ModelSpec
from cte_dask.perturb.views import TileContext, view_of
from cte_dask.volume import intensity_statistics, open_volume

pytest.importorskip("monai")


@pytest.fixture(autouse=True)
def _old_warnings() -> Iterator[None]:
    with warnings.catch_warnings():  # MONAI uses what others have deprecated
        warnings.simplefilter("ignore")
        yield


NETWORK = {
    "_target_": "UNet", "spatial_dims": "@dims", "in_channels": 1, "out_channels": 2,
    "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1, "norm": "batch",
}  # fmt: skip
READ = [
    {"_target_": "LoadImaged", "keys": "@key"},
    {"_target_": "EnsureChannelFirstd", "keys": ["image"]},
]
SCALED = {
    "_target_": "ScaleIntensityRanged", "keys": "image",
    "a_min": 20, "a_max": 220, "b_min": -1.0, "b_max": 1.0, "clip": True,
}  # fmt: skip
FINISHED = [
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$os.getcwd()"},
]


def configuration(**changes: Any) -> dict[str, Any]:
    return {
        "imports": ["$import os"],
        "key": "image",
        "dims": 2,
        "device": "$torch.device('cuda')",
        "network_def": NETWORK,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [*READ, SCALED]},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 48]},
        "postprocessing": {"_target_": "Compose", "transforms": FINISHED},
    } | changes


def network_of(document: dict[str, Any]) -> torch.nn.Module:
    """MONAI's own reading of a configuration: it evaluates what it meets."""
    from monai.bundle import ConfigParser

    torch.manual_seed(3)
    network: torch.nn.Module = ConfigParser(document).get_parsed_content("network_def").eval()
    return network


def write(
    folder: Path, document: dict[str, Any], *, script: bool = False, name: str = "inference.json"
) -> ModelSpec:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    text = json.dumps(document) if name.endswith("json") else yaml.safe_dump(document)
    (folder / "configs" / name).write_text(text)
    (folder / "configs" / "metadata.json").write_text(
        json.dumps({"name": "Spots", "version": "0.1.0", "network_data_format": {}})
    )
    if script:
        traced = torch.jit.trace(network_of(document), torch.rand(1, 1, 32, 32))
        torch.jit.save(traced, folder / "models" / "model.ts")
    else:
        torch.save({"model": network_of(document).state_dict()}, folder / "models" / "model.pt")
    return ModelSpec(name="spots", format="monai", source=str(folder))


IMAGE = np.random.default_rng(0).integers(0, 256, (48, 32), dtype=np.uint8)


def ours(spec: ModelSpec, image: np.ndarray) -> np.ndarray:
    spec = described(spec)
    x = torch.from_numpy(preprocess([image], spec.preprocessing, None)[0])[None, None]
    with torch.no_grad():
        y: np.ndarray = load_network(spec).forward(x).softmax(1)[0, spec.output.channel].numpy()
    return y


def theirs(document: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """MONAI's transforms, inferer and activation, on an image in the order of its readers: x, y."""
    from monai.bundle import ConfigParser

    sections = {**document, "preprocessing": [SCALED], "postprocessing": FINISHED[:1]}
    parser = ConfigParser(sections)
    (scale,), (activation,) = (parser.get_parsed_content(n) for n in sections if "process" in n)
    data = scale({"image": torch.from_numpy(image.T.astype(np.float32).copy())[None]})
    with torch.no_grad():
        inferer = parser.get_parsed_content("inferer")
        pred = inferer(data["image"][None], network_of(document))
    pred = activation({"pred": pred[0]})["pred"]
    return pred[1].numpy().T


@pytest.mark.parametrize("way", ["pt", "ts", "zip", "yaml"])
def test_a_bundle_predicts_as_monais_own_inferer(way: str, tmp_path: Path) -> None:
    document = configuration()
    name = "inference.yaml" if way == "yaml" else "inference.json"
    spec = write(tmp_path / "spots", document, script=way == "ts", name=name)
    if way == "zip":
        archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "spots")
        spec = pinned(spec.model_copy(update={"source": archive}))
    np.testing.assert_allclose(ours(spec, IMAGE), theirs(document, IMAGE), rtol=0, atol=1e-5)


def test_its_axes_are_those_of_monais_readers(tmp_path: Path) -> None:
    narrow = {
        "_target_": "monai.networks.nets.DynUNet", "spatial_dims": 2, "in_channels": 1,
        "out_channels": 2, "kernel_size": [[3, 1]] * 3, "strides": [1, [2, 1], [2, 1]],
        "upsample_kernel_size": [[2, 1]] * 2, "filters": [4, 8, 8],
        "norm_name": ["batch", {"affine": False}],
    }  # fmt: skip
    spec = write(tmp_path / "a", configuration(network_def=narrow))
    changed = IMAGE.copy()
    changed[:, 20:] = 0  # its kernels reach along x alone
    difference = np.abs(ours(spec, IMAGE) - ours(spec, changed))
    assert (difference[0] > 1e-3).any()
    reader = [{"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader"}, SCALED]
    as_stored = write(tmp_path / "b", configuration(network_def=narrow, preprocessing=reader))
    difference = np.abs(ours(as_stored, IMAGE) - ours(as_stored, changed))
    np.testing.assert_array_equal(difference[:, :20] > 1e-3, np.zeros((48, 20), bool))
    np.testing.assert_allclose(
        ours(spec, IMAGE), theirs(configuration(network_def=narrow), IMAGE), atol=1e-5
    )


@pytest.mark.parametrize(
    ("transforms", "steps"),
    [
        ([{"_target_": "ScaleIntensityd", "keys": "image"}], [("scale_range", 0.0)]),
        ([{"_target_": "ScaleIntensity", "minv": -1, "maxv": 1}],
         [("scale_range", 0.0), ("scale_linear", 2.0)]),
        ([{"_target_": "ScaleIntensity", "minv": None, "maxv": None, "factor": 0.5}],
         [("scale_linear", 1.5)]),
        ([{"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 1,
           "upper": 99, "b_min": 0, "b_max": 1, "clip": True}],
         [("scale_range", 1.0), ("clip", 0.0)]),
        ([{"_target_": "ScaleIntensityRangePercentiles", "lower": 10, "upper": 90, "b_min": 0,
           "b_max": 2, "relative": True}],
         [("scale_range", 10.0), ("scale_linear", 1.6)]),
        ([{"_target_": "monai.transforms.NormalizeIntensityd", "keys": "image"}],
         [("zero_mean_unit_variance", 1e-10)]),
        ([{"_target_": "NormalizeIntensityD", "keys": "image", "subtrahend": [3], "divisor": 2}],
         [("fixed_zero_mean_unit_variance", 3.0)]),
        ([{"_target_": "ShiftIntensityd", "keys": "image", "offset": 4},
          {"_target_": "ScaleIntensityd", "keys": "label"},
          {"_target_": "ScaleIntensityd", "keys": "image", "_disabled_": True}],
         [("scale_linear", 1.0)]),
    ],
)  # fmt: skip
def test_its_preprocessing_is_read(
    transforms: list[dict[str, Any]], steps: list[tuple[str, float]], tmp_path: Path
) -> None:
    spec = described(write(tmp_path / "a", configuration(preprocessing=[*READ, *transforms])))
    assert [(s.name, next(iter(s.kwargs.values()))) for s in spec.preprocessing] == steps


def test_its_steps_compute_what_monais_transforms_do(tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    class Raw:
        mean, std = float(IMAGE.mean()), float(IMAGE.std())

        def percentile(self, q: float) -> float:
            return float(np.percentile(IMAGE, q))

    transforms = [
        {"_target_": "ScaleIntensityRangePercentiles", "lower": 5, "upper": 90, "b_min": -1,
         "b_max": 3, "clip": True, "relative": True},
        {"_target_": "ScaleIntensityRange", "a_min": 10, "a_max": 200},
        {"_target_": "ScaleIntensity", "minv": -2, "maxv": 3},
        {"_target_": "NormalizeIntensity"},
    ]  # fmt: skip
    for number, transform in enumerate(transforms):
        spec = described(write(tmp_path / str(number), configuration(preprocessing=[transform])))
        (expected,) = ConfigParser({"t": [transform]}).get_parsed_content("t")
        (got,) = preprocess([IMAGE], spec.preprocessing, [Raw()])
        image = torch.from_numpy(IMAGE.astype(np.float32))[None]
        np.testing.assert_allclose(got, expected(image)[0].numpy(), rtol=1e-5, atol=1e-5)


PAIR = np.stack([IMAGE, IMAGE[::-1] // 4 + 90]).astype(np.float32)
"""A target of two channels."""


def seen_of_pair(spec: ModelSpec) -> np.ndarray:
    """What a network sees of the pair, (c, y, x), where all of it is one tile."""
    intensity = [intensity_statistics(open_volume(c), percentiles=[0, 1, 99.8, 100]) for c in PAIR]
    view = view_of(None, TileContext((1, *IMAGE.shape), 2, (0, 0, 0), (1, 1, 1)))
    x = samples(PAIR[None, :, None], spec, view=view, intensity=intensity, like=torch.empty(0))
    array: np.ndarray = x[0].numpy()
    return array


def transformed(transform: dict[str, Any]) -> np.ndarray:
    from monai.bundle import ConfigParser

    (theirs,) = ConfigParser({"t": [transform]}).get_parsed_content("t")
    array: np.ndarray = theirs(torch.from_numpy(PAIR.copy())).numpy()
    return array


@pytest.mark.parametrize(
    "transform",
    [
        {"_target_": "NormalizeIntensity"},
        {"_target_": "NormalizeIntensity", "channel_wise": True},
        {"_target_": "NormalizeIntensity", "channel_wise": True, "subtrahend": [90, 120],
         "divisor": [4, 9]},
        {"_target_": "NormalizeIntensity", "subtrahend": 90, "divisor": 4},
        {"_target_": "ScaleIntensity", "minv": -2, "maxv": 3},
        {"_target_": "ScaleIntensity", "channel_wise": True},
        {"_target_": "ScaleIntensity", "minv": None, "maxv": None, "factor": 0.5},
        {"_target_": "ScaleIntensityRangePercentiles", "lower": 0, "upper": 100, "b_min": 0,
         "b_max": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_what_several_channels_become_is_what_monais_transforms_make_of_the_whole_image(
    transform: dict[str, Any], tmp_path: Path
) -> None:
    document = configuration(preprocessing=[transform], network_def=NETWORK | {"in_channels": 2})
    spec = write(tmp_path / "a", document).model_copy(update={"channels": (0, 1), "in_channels": 2})
    spec = described(spec)
    joint = transform.get("channel_wise", False) is False
    assert [s.joint for s in spec.preprocessing if s.name in ("scale_range",
            "zero_mean_unit_variance")] in ([], [joint])  # fmt: skip
    expected = transformed(transform)
    np.testing.assert_allclose(seen_of_pair(spec), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channel_wise", [False, True])
@pytest.mark.parametrize("step", ["scale_range", "zero_mean_unit_variance"])
def test_statistics_of_a_tile_over_channels_are_those_of_monais_transforms(
    step: str, channel_wise: bool
) -> None:
    ends = {"min_percentile": 5, "max_percentile": 90} if step == "scale_range" else {}
    kwargs = {"channel_wise": channel_wise, "eps": 1e-10, **ends}
    spec = ModelSpec(
        name="m", format="torchscript", source="s", channels=(0, 1),
        preprocessing=[{"name": step, "kwargs": kwargs, "scope": "tile"}],
    )  # fmt: skip
    transform = {
        "scale_range": {"_target_": "ScaleIntensityRangePercentiles", "lower": 5, "upper": 90,
                        "b_min": 0, "b_max": 1},
        "zero_mean_unit_variance": {"_target_": "NormalizeIntensity"},
    }[step]  # fmt: skip
    expected = transformed(transform | {"channel_wise": channel_wise})
    np.testing.assert_allclose(seen_of_pair(spec), expected, rtol=1e-5, atol=1e-5)


def test_percentiles_of_all_channels_of_the_target_are_refused_where_there_are_several(
    tmp_path: Path,
) -> None:
    transform = {
        "_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 1, "upper": 99,
        "b_min": 0, "b_max": 1,
    }  # fmt: skip
    network = NETWORK | {"in_channels": 2}
    spec = write(tmp_path / "a", configuration(preprocessing=[transform], network_def=network))
    assert described(spec).preprocessing[0].joint  # one channel, repeated
    both = spec.model_copy(update={"channels": (0, 1)})
    with pytest.raises(ValueError, match="those of 2 channels together do not follow") as caught:
        described(both)
    assert "\n" not in str(caught.value)
    numbers = {"_target_": "NormalizeIntensity", "subtrahend": [1, 2], "divisor": [3, 4]}
    spec = write(tmp_path / "b", configuration(preprocessing=[numbers], network_def=network))
    with pytest.raises(ValueError, match="another number for each channel is not channel_wise"):
        described(spec)


@pytest.mark.parametrize(
    ("activations", "channels", "output"),
    [
        ([{"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
          {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.4}], 1,
         {"activation": "sigmoid", "threshold": 0.4, "channel": 0, "classes": ()}),
        ([{"_target_": "AsDiscreted", "keys": "$monai.utils.CommonKeys.PRED", "argmax": True}], 4,
         {"activation": "softmax", "threshold": 0.5, "channel": 0, "classes": (1, 2, 3)}),
        ([{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}], 2,
         {"activation": "softmax", "threshold": 0.5, "channel": 1, "classes": ()}),
        ([{"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.0}], 1,
         {"activation": "none", "threshold": 0.0, "channel": 0, "classes": ()}),
    ],
)  # fmt: skip
def test_its_output_is_read(
    activations: list[dict[str, Any]], channels: int, output: dict[str, Any], tmp_path: Path
) -> None:
    document = configuration(
        postprocessing={"_target_": "Compose", "transforms": activations},
        network_def=NETWORK | {"out_channels": channels},
    )
    spec = described(write(tmp_path / "a", document))
    assert spec.output.model_dump(include=set(output)) == output


def test_its_voxel_size_is_in_our_order_and_a_check_says_what_it_resamples(tmp_path: Path) -> None:
    spacing = {"_target_": "Spacingd", "keys": "image", "pixdim": [0.001, 0.002, 0.003]}
    document = configuration(
        dims=3, preprocessing=[*READ, spacing],
        inferer={"_target_": "SlidingWindowInferer", "roi_size": [64, 32, 16]},
    )  # fmt: skip
    spec = write(tmp_path / "a", document)
    assert described(spec).axes == "zyx"
    assert described(spec).voxel_size_nm == pytest.approx((3000.0, 2000.0, 1000.0))
    report = check_model(spec)
    assert report.notes[0] == "MONAI bundle: model.pt of Spots 0.1.0"
    windows = "the bundle predicts windows of 16 × 32 × 64 (z, y, x): name them in extent"
    assert any(note.startswith(windows) for note in report.notes)
    assert "the bundle resamples to its voxel size: resample: true does so here" in report.notes
    resampled = load_network(described(spec.model_copy(update={"resample": True})))
    assert not any("resample" in note for note in resampled.notes)


def test_its_bottleneck_is_found_and_its_encoder_shared(tmp_path: Path) -> None:
    path = feature_path(
        load_network(write(tmp_path / "a", configuration())), torch.rand(2, 1, 32, 32)
    )
    assert path.note == ""
    assert path.channels == (24,)


def test_bundles_of_one_network_share_what_it_decides(tmp_path: Path) -> None:
    deeper = configuration(network_def=NETWORK | {"channels": [8, 16, 32]})
    documents = [configuration(), configuration(), deeper]
    specs = [write(tmp_path / str(n), d) for n, d in enumerate(documents)]
    codes = [load_network(described(spec)).code for spec in specs]
    assert codes[0] == codes[1] != codes[2]
    assert codes[0]


def test_the_bank_wins_over_the_bundle(tmp_path: Path) -> None:
    odd = configuration(
        preprocessing="$monai.transforms.Compose(@list)",
        postprocessing={"_target_": "KeepLargestConnectedComponentd", "keys": "pred"},
    )
    spec = write(tmp_path / "a", odd)
    entry = spec.model_dump(exclude_unset=True)
    for key, remedy in (("output", "bank's preprocessing"), ("preprocessing", "bank's output")):
        keys = {"preprocessing": [{"name": "scale_range"}], "output": {"activation": "softmax"}}
        with pytest.raises(ValueError, match=remedy):
            described(ModelSpec.model_validate(entry | {key: keys[key]}))
    spec = described(ModelSpec.model_validate(entry | keys))
    assert [s.name for s in spec.preprocessing] == ["scale_range"]
    assert load_network(spec).kind == "module"
    named = spec.model_copy(update={"arguments": {"axes": "zx"}})
    with pytest.raises(ModelError, match=r"arguments.axes .zx. must be an order of y, x"):
        load_network(named)


def test_a_network_of_one_extent_says_so(tmp_path: Path) -> None:
    pytest.importorskip("einops")  # of the extra, for MONAI's transformers
    unetr = {
        "_target_": "UNETR", "in_channels": 1, "out_channels": 2, "img_size": [32, 48],
        "spatial_dims": 2, "hidden_size": 12, "mlp_dim": 8, "num_heads": 1, "feature_size": 2,
    }  # fmt: skip
    network = load_network(write(tmp_path / "a", configuration(network_def=unetr)))
    assert network.fixed_spatial == (48, 32)
    assert network.forward(torch.rand(1, 1, 48, 32)).shape == (1, 2, 48, 32)


def test_an_argument_that_is_an_expression_is_named_in_the_bank(tmp_path: Path) -> None:
    spec = write(tmp_path / "a", configuration())
    file = tmp_path / "a" / "configs" / "inference.json"
    changed = NETWORK | {"in_channels": "$len(@key) - 4", "out_channels": "$1 + 1"}
    file.write_text(json.dumps(configuration(network_def=changed)))
    with pytest.raises(ModelError, match=r"not evaluated: name it in arguments\.network"):
        load_network(spec)
    named = {"network": {"in_channels": 1, "out_channels": 2}}
    spec = described(spec.model_copy(update={"arguments": named}))
    assert (spec.in_channels, spec.output.channel) == (1, 1)
    np.testing.assert_allclose(ours(spec, IMAGE), theirs(configuration(), IMAGE), atol=1e-5)
    with pytest.raises(ModelError, match="must map arguments to values"):
        load_network(spec.model_copy(update={"arguments": {"network": 3}}))


def test_arguments_of_older_monai_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("einops")
    swin = {
        "_target_": "SwinUNETR", "in_channels": 1, "out_channels": 2, "feature_size": 12,
        "spatial_dims": 2, "num_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1],
    }  # fmt: skip
    spec = write(tmp_path / "a", configuration(network_def=swin))
    file = tmp_path / "a" / "configs" / "inference.json"
    file.write_text(json.dumps(configuration(network_def=swin | {"img_size": [96, 96]})))
    network = load_network(spec)
    assert network.fixed_spatial is None
    x = torch.rand(1, 1, 64, 32)
    with torch.no_grad():
        expected = network_of(configuration(network_def=swin))(x.transpose(2, 3)).transpose(2, 3)
        torch.testing.assert_close(network.forward(x), expected)


REFUSED = {
    "an expression": ({"network_def": NETWORK | {"channels": "$open('ran', 'w')"}},
                      "channels of the network is \"$open('ran', 'w')\", an expression"),
    "a class inside": ({"network_def": NETWORK | {"act": {"_target_": "os.mkdir", "path": "ran"}}},
                       "act of the network makes a os.mkdir"),
    "any class": ({"network_def": {"_target_": "os.mkdir", "path": "ran"}},
                  "its network os.mkdir is none of MONAI's networks"),
    "a class of MONAI that reads files": (
        {"network_def": {"_target_": "CellSamWrapper", "checkpoint": "ran"}},
        "its network CellSamWrapper is none of MONAI's networks"),
    "a class of the bundle": ({"network_def": {"_target_": "scripts.net.Net"}},
                              "its network scripts.net.Net is none of MONAI's networks"),
    "no network": ({"network_def": "$make()"}, "has no network_def"),
    "a circle": ({"network_def": NETWORK | {"channels": "@a"}, "a": ["@a"]}, "refers to itself"),
    "a reference to nothing": ({"network_def": NETWORK | {"channels": "@b"}}, "is not there"),
    "wrong arguments": ({"network_def": NETWORK | {"strides": [2]}}, "UNet refuses its arguments"),
    "an unknown transform": ({"preprocessing": [{"_target_": "Lambdad", "keys": "image"}]},
                             "the transform Lambdad has no counterpart here: say in the bank's"),
    "a mask": ({"preprocessing": [{"_target_": "NormalizeIntensity", "nonzero": True}]},
               "NormalizeIntensity of voxels above 0 has no counterpart"),
    "a number that is none": ({"preprocessing": [SCALED | {"a_min": "low"}]},
                              "a_min of ScaleIntensityRange is 'low', no number"),
    "half a range": ({"preprocessing": [SCALED | {"b_min": None}]},
                     "b_min of ScaleIntensityRange is None, no number"),
    "no activation": ({"postprocessing": []}, "tells no activation: say in the bank's output"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_have_to_run_is_refused_in_one_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, expected = REFUSED[what]
    spec = write(tmp_path / "a", configuration())
    file = tmp_path / "a" / "configs" / "inference.json"
    file.write_text(json.dumps(configuration(**changes)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_network(spec)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    spec = write(tmp_path / "a", configuration())
    (tmp_path / "a" / "models" / "model.pt").unlink()
    with pytest.raises(ModelError, match=r"no weights models/model.pt or model.ts: there are none"):
        load_network(spec)
    (tmp_path / "a" / "configs" / "inference.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"inference.json must be a mapping, not a list"):
        load_network(spec)
    (tmp_path / "a" / "configs" / "inference.json").unlink()
    with pytest.raises(ModelError, match="it is no MONAI bundle"):
        load_network(spec)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    spec = write(tmp_path / "a", configuration())
    torch.save(responsive_unet().state_dict(), tmp_path / "a" / "models" / "model.pt")
    with pytest.raises(ModelError, match="the weights do not fit the architecture"):
        load_network(spec)
