"""Models of nnU-Net v2: the network of its own builder as it was trained, and nothing run."""

from __future__ import annotations

import json
import pydoc
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.inference.preprocess import preprocess
from cte_dask.inference.trial import check_model
from cte_dask.models.described import described
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError
from cte_dask.models.source import pinned
from cte_dask.models.spec import ModelSpec
from cte_dask.volume import intensity_statistics, open_volume

pytest.importorskip("dynamic_network_architectures")

UNETS = "dynamic_network_architectures.architectures.unet"
CT = {"mean": 90.0, "std": 30.0, "percentile_00_5": 20.0, "percentile_99_5": 200.0}


def architecture(dims: int, **changes: Any) -> dict[str, Any]:
    return {
        "network_class_name": f"{UNETS}.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [[1, 3, 3][-dims:], *[[3] * dims] * 2],
            "strides": [[1] * dims, [1, 2, 2][-dims:], [2] * dims],
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.batchnorm.BatchNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        | changes,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(dims: int = 2, **changes: Any) -> dict[str, Any]:
    """Plans of two configurations, the second of which inherits from the first."""
    section = {
        "patch_size": [8, 16, 16][-dims:],
        "spacing": [3.0, 0.2, 0.1][-dims:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture(dims),
    } | changes.pop("configuration", {})
    base = "2d" if dims == 2 else "3d_fullres"
    return {
        "dataset_name": "Dataset004_Spots",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {base: section, "larger": {"inherits_from": base, "batch_size": 9}},
        "foreground_intensity_properties_per_channel": {"0": CT},
    } | changes


def dataset(**changes: Any) -> dict[str, Any]:
    labels = {"background": 0, "cell": 1, "wall": 2, "ignore": 3}
    return {"channel_names": {"0": "EM"}, "labels": labels} | changes


def trained(section: dict[str, Any], heads: int, seed: int = 3) -> torch.nn.Module:
    """The network as nnunetv2.utilities.get_network_from_plans builds it for its training."""
    arguments = dict(section["arch_kwargs"])
    for key in section["_kw_requires_import"]:
        arguments[key] = arguments[key] and pydoc.locate(arguments[key])
    torch.manual_seed(seed)
    network: torch.nn.Module = pydoc.locate(section["network_class_name"])(
        input_channels=1, num_classes=heads, deep_supervision=True, **arguments
    )
    return network.eval()


def write(
    folder: Path,
    plans_: dict[str, Any],
    dataset_: dict[str, Any] | None = None,
    *,
    network: torch.nn.Module | None = None,
    folds: tuple[object, ...] = (0,),
    **arguments: Any,
) -> ModelSpec:
    dataset_ = dataset_ or dataset()
    base = next(iter(plans_["configurations"].values()))
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        made = network or trained(base["architecture"], 3, seed=folds.index(fold))
        checkpoint = {
            "network_weights": made.state_dict(),
            "optimizer_state": {"state": {}, "param_groups": []},
            "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.4)]},
            "_best_ema": np.float64(0.6),
            "init_args": {"plans": plans_, "fold": fold, "device": torch.device("cuda")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans_))
    (folder / "dataset.json").write_text(json.dumps(dataset_))
    return ModelSpec(name="nn", format="nnunet", source=str(folder), arguments=arguments)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_a_checkpoint_gives_the_full_resolution_output_of_its_training(
    kind: str, dims: int, tmp_path: Path
) -> None:
    section = architecture(dims)
    if kind != "PlainConvUNet":
        section["arch_kwargs"]["n_blocks_per_stage"] = section["arch_kwargs"].pop(
            "n_conv_per_stage"
        )
    section["network_class_name"] = f"{UNETS}.{kind}"
    network = trained(section, 3)
    spec = write(
        tmp_path / "t__p__none",
        plans(dims, configuration={"architecture": section}),
        network=network,
        configuration="2d" if dims == 2 else "3d_fullres",
    )
    x = torch.rand(2, 1, *(16,) * dims)
    with torch.no_grad():
        torch.testing.assert_close(load_network(spec).forward(x), network(x)[0])
    assert described(spec).axes == "zyx"[3 - dims :]


def test_its_plans_are_read(tmp_path: Path) -> None:
    spec = described(write(tmp_path / "t__p__3d_fullres", plans(3)))
    assert spec.voxel_size_nm == pytest.approx((3e6, 2e5, 1e5))
    assert [(s.name, s.scope) for s in spec.preprocessing] == [
        ("zero_mean_unit_variance", "volume")
    ]
    assert (spec.output.activation, spec.output.classes) == ("softmax", (1, 2))


def test_a_check_says_which_weights_and_what_nnunet_does_besides(tmp_path: Path) -> None:
    spec = write(tmp_path / "t__p__2d", plans(), folds=(0, 1, "all"))
    assert check_model(spec).notes == (
        "nnU-Net Dataset004_Spots 2d: fold_0/checkpoint_final.pth",
        "one of its 3 folds: name others in arguments.fold, a model each",
        "it was trained on patches of 16 × 16 (y, x): name them in extent to predict in such",
        "nnU-Net resamples to its voxel size: resample: true does so here",
    )


def test_folds_are_models_of_their_own(tmp_path: Path) -> None:
    spec = write(tmp_path / "t__p__2d", plans(), folds=(0, 1, "all"))
    x = torch.rand(1, 1, 16, 16)
    outputs = []
    for fold in (0, 1, "all"):
        entry = spec.model_copy(update={"arguments": {"fold": fold}})
        outputs.append(load_network(entry).forward(x))
    assert torch.equal(load_network(spec).forward(x), outputs[0])
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


def test_axes_are_transposed_as_in_the_plans(tmp_path: Path) -> None:
    network = trained(architecture(3), 3)
    turned = plans(3, transpose_forward=[2, 0, 1], configuration={"patch_size": [8, 16, 32]})
    spec = described(write(tmp_path / "t__p__3d_fullres", turned, network=network))
    x = torch.rand(1, 1, 8, 12, 16)
    with torch.no_grad():
        expected = network(x.permute(0, 1, 4, 2, 3))[0].permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(load_network(spec).forward(x), expected)
    assert spec.voxel_size_nm == pytest.approx((2e5, 1e5, 3e6))
    assert any("16 × 32 × 8 (z, y, x)" in note for note in load_network(spec).notes)
    planes = plans(transpose_forward=[1, 0, 2])
    with pytest.raises(ModelError, match="2d sees planes across y, not across z"):
        load_network(write(tmp_path / "t__p__2d", planes))


@pytest.mark.parametrize("scheme", ["ZScore", "CT", "RescaleTo01", "RGBTo01", "No"])
def test_intensities_are_normalised_by_its_formulas(scheme: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.float32)
    clipped = np.clip(image, CT["percentile_00_5"], CT["percentile_99_5"])
    expected = {
        "ZScore": (image - image.mean()) / image.std(),
        "CT": (clipped - CT["mean"]) / CT["std"],
        "RescaleTo01": (image - image.min()) / (image - image.min()).max(),
        "RGBTo01": image / 255,
        "No": image,
    }

    class Raw:
        mean, std = float(image.mean()), float(image.std())

        def percentile(self, q: float) -> float:
            return float(np.percentile(image, q))

    changes = {"normalization_schemes": [f"{scheme}Normalization"]}
    spec = described(write(tmp_path / "t__p__2d", plans(configuration=changes)))
    (got,) = preprocess([image], spec.preprocessing, [Raw()])
    np.testing.assert_allclose(got, expected[scheme], rtol=1e-5, atol=1e-6)


def test_an_extent_in_the_bank_predicts_patch_by_patch_as_nnunet_does(tmp_path: Path) -> None:
    section = architecture(2, norm_op="torch.nn.InstanceNorm2d")
    changes = {"architecture": section}
    spec = write(tmp_path / "t__p__2d", plans(configuration=changes), network=trained(section, 3))
    entry = spec.model_dump(exclude_unset=True)
    entry |= {"extent": {"y": 16, "x": 16}, "halo": {"y": 4, "x": 4}}
    patches = load_network(described(ModelSpec.model_validate(entry)))
    assert "it was trained on patches of 16 × 16 (y, x)" in patches.notes
    x = torch.rand(1, 1, 16, 24)
    left, right = (load_network(spec).forward(part) for part in (x[..., :16], x[..., 8:]))
    expected = torch.cat([left[..., :12], right[..., 4:]], dim=-1)
    torch.testing.assert_close(patches.forward(x), expected)


def test_regions_have_a_channel_each(tmp_path: Path) -> None:
    labels = {"background": 0, "both": [1, 2], "inner": [2]}
    network = trained(architecture(2), 2)
    files = plans(image_reader_writer="NaturalImage2DIO"), dataset(labels=labels)
    spec = write(tmp_path / "t__p__2d", *files, network=network)
    assert described(spec).output.activation == "sigmoid"
    assert described(spec).voxel_size is None
    note = "its channels are both, inner: output.channel names one"
    assert note in load_network(spec).notes


def test_one_label_is_the_foreground_channel(tmp_path: Path) -> None:
    files = plans(), dataset(labels={"background": 0, "cell": 1})
    spec = described(write(tmp_path / "t__p__2d", *files))
    assert (spec.output.channel, spec.output.classes) == (1, ())


def test_its_bottleneck_is_found_and_its_encoder_shared(tmp_path: Path) -> None:
    spec = write(tmp_path / "t__p__2d", plans())
    path = feature_path(load_network(spec), torch.rand(2, 1, 32, 32))
    assert path.note == ""
    assert path.layers[0].startswith("encoder.stages.2")


def test_folds_of_one_plan_share_what_it_decides(tmp_path: Path) -> None:
    spec = write(tmp_path / "t__p__2d", plans(), folds=(0, 1))
    folds = [spec.model_copy(update={"arguments": {"fold": fold}}) for fold in (0, 1)]
    codes = [load_network(described(fold)).code for fold in folds]
    other = write(tmp_path / "u__p__2d", plans(transpose_forward=[0, 2, 1]))
    assert codes[0] == codes[1] != load_network(described(other)).code
    assert codes[0]


def test_an_exported_archive_of_several_models_needs_a_name(tmp_path: Path) -> None:
    small = write(tmp_path / "all" / "Dataset004" / "t__p__2d", plans())
    write(tmp_path / "all" / "Dataset004" / "t__p__3d_fullres", plans(3))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "all")
    spec = small.model_copy(update={"source": archive})
    with pytest.raises(ModelError, match=r"holds 2 trained models \(plans.json\), not one"):
        load_network(spec)
    named = pinned(spec.model_copy(update={"arguments": {"configuration": "2d"}}))
    x = torch.rand(1, 1, 16, 16)
    assert torch.equal(load_network(named).forward(x), load_network(small).forward(x))


def test_a_configuration_inherits(tmp_path: Path) -> None:
    spec = write(tmp_path / "t__p__larger", plans())
    assert load_network(spec).notes[0].startswith("nnU-Net Dataset004_Spots larger: ")


def test_older_plans_give_the_network_that_nnunet_builds_of_them(tmp_path: Path) -> None:
    section = architecture(2, norm_op="torch.nn.modules.instancenorm.InstanceNorm2d")
    arguments = section["arch_kwargs"]
    older = {
        "architecture": None,
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
        "pool_op_kernel_sizes": arguments["strides"],
    }
    network = trained(section, 3)
    spec = write(tmp_path / "t__p__2d", plans(configuration=older), network=network)
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load_network(spec).forward(x), network(x)[0])


REFUSED = {
    "any class": (
        {"architecture": architecture(2) | {"network_class_name": "os.mkdir"}},
        "its network os.mkdir is none that is known here"),
    "a class of others": (
        {"architecture": architecture(2) | {"network_class_name": "my_nets.unet.PlainConvUNet"}},
        "its network my_nets.unet.PlainConvUNet is none"),
    "any layer": ({"architecture": architecture(2, nonlin="os.mkdir")},
                  "nonlin of its network is os.mkdir, not one of"),
    "wrong arguments": ({"architecture": architecture(2, n_stages=7)},
                        "PlainConvUNet refuses its arguments"),
    "a mask": ({"use_mask_for_norm": [True]}, "normalisation within a mask has no counterpart"),
    "an unknown normalisation": ({"normalization_schemes": ["MyNormalization"]},
                                 "the normalisation MyNormalization has no counterpart"),
    "a cascade": ({"previous_stage": "3d_lowres"}, "needs the segmentation of 3d_lowres"),
    "a circle": ({"inherits_from": "larger"}, "inherits from itself"),
    "no parent": ({"inherits_from": "smaller"}, "inherits from 'smaller', which is none"),
    "no extents": ({"patch_size": []}, "no patch_size of 2 or 3 extents"),
    "no architecture": ({"architecture": None}, "plans.json tells no architecture"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_known_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    changes, expected = REFUSED[what]
    spec = write(tmp_path / "t__p__2d", plans())
    (tmp_path / "t__p__2d" / "plans.json").write_text(json.dumps(plans(configuration=changes)))
    with pytest.raises(ModelError) as caught:
        load_network(spec)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_channels_are_normalised_apart_by_the_scheme_of_each(tmp_path: Path) -> None:
    schemes = ["CT", "ZScore", "RescaleTo01", "RGBTo01", "No"]
    names = {str(number): name for number, name in enumerate(schemes)}
    changes = {"normalization_schemes": [f"{scheme}Normalization" for scheme in schemes]}
    files = plans(configuration=changes), dataset(channel_names=names)
    spec = described(write(tmp_path / "t__p__2d", *files))
    image = np.random.default_rng(0).gamma(2, 30, (5, 16, 16)).astype(np.float32)
    intensity = [intensity_statistics(open_volume(c), percentiles=[0, 100]) for c in image]
    got = preprocess(image, spec.preprocessing, intensity)
    clipped = np.clip(image[0], CT["percentile_00_5"], CT["percentile_99_5"])
    expected = [
        (clipped - CT["mean"]) / CT["std"],
        (image[1] - image[1].mean()) / image[1].std(),
        (image[2] - image[2].min()) / np.ptp(image[2]),
        image[3] / 255,
        image[4],
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_numbers_of_each_channels_training_are_those_of_the_channel(tmp_path: Path) -> None:
    numbers = {"0": CT, "1": CT | {"mean": 10.0, "std": 5.0}}
    files = (
        plans(
            configuration={"normalization_schemes": ["CTNormalization"] * 2},
            foreground_intensity_properties_per_channel=numbers,
        ),
        dataset(channel_names={"0": "a", "1": "b"}),
    )
    steps = described(write(tmp_path / "t__p__2d", *files)).preprocessing
    assert [(s.name, s.channel, s.kwargs.get("mean")) for s in steps] == [
        ("clip", 0, None),
        ("fixed_zero_mean_unit_variance", 0, 90.0),
        ("clip", 1, None),
        ("fixed_zero_mean_unit_variance", 1, 10.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fold": 4}, "no fold_4/checkpoint_final.pth: arguments.fold, of 0"),
        ({"checkpoint": "checkpoint_best.pth"}, "no fold_0/checkpoint_best.pth"),
        ({"configuration": "3d_lowres"}, "no configuration '3d_lowres': arguments.configuration"),
    ],
)
def test_what_is_not_there_is_named(
    arguments: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=expected):
        load_network(write(tmp_path / "t__p__2d", plans(), **arguments))


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    spec = write(tmp_path / "t__p__2d", plans())
    file = tmp_path / "t__p__2d" / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": {"a": torch.ones(1)}, "init_args": Payload()}, file)
    with pytest.raises(ModelError, match="would have to run code to load"):
        load_network(spec)
    assert not (tmp_path / "ran").exists()
