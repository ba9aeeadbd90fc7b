from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest

from cte_dask.models.spec import ModelSpec, Step

BASE = {
    "name": "m",
    "format": "state_dict",
    "source": "/weights.safetensors",
    "architecture": "cte_dask.models.unet:UNet",
}


def spec(**keys: object) -> ModelSpec:
    return ModelSpec.model_validate(BASE | keys)


def test_a_spec_is_small_hashable_and_survives_pickling() -> None:
    one = spec(arguments={"features": [1, 2]}, halo={"y": 3, "x": 4})
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(pickle.loads(pickle.dumps(one))) == hash(one)
    assert len(pickle.dumps(one)) < 5_000


def test_geometry_is_zyx_whatever_the_axes() -> None:
    flat = spec(halo={"x": 4, "y": 3}, multiple={"y": 8, "x": 16})
    assert (flat.dims, flat.halo_zyx, flat.multiple_zyx) == (2, (0, 3, 4), (1, 8, 16))
    deep = spec(axes="zyx", halo={"z": 1, "y": 2, "x": 3})
    assert (deep.dims, deep.halo_zyx, deep.multiple_zyx) == (3, (1, 2, 3), None)


@pytest.mark.parametrize(
    ("unit", "factor"), [("angstrom", 0.1), ("nanometer", 1), ("micrometer", 1e3)]
)
def test_voxel_sizes_come_in_nanometre(unit: str, factor: float) -> None:
    size = {"y": 2.0, "x": 3.0, "unit": unit}
    assert spec(voxel_size=size).voxel_size_nm == (None, 2 * factor, 3 * factor)
    assert spec(voxel_size=size | {"z": 4}).voxel_size_nm == (4 * factor, 2 * factor, 3 * factor)
    assert spec().voxel_size_nm is None


def test_the_digest_tells_models_apart_but_not_places_of_known_weights() -> None:
    assert spec().digest() == spec().digest()
    assert spec().digest() != spec(source="/elsewhere").digest()
    assert spec().digest() != spec(output={"threshold": 0.4}).digest()
    digest = {"sha256": "a" * 64}
    assert spec(**digest).digest() == spec(**digest, source="/elsewhere").digest()


def test_defaults_written_out_are_the_same_model() -> None:
    short = spec(preprocessing=[{"name": "scale_range", "kwargs": {"min_percentile": 1}}])
    long = {"min_percentile": 1.0, "max_percentile": 100, "eps": "1e-6"}
    written = [{"name": "scale_range", "kwargs": long, "scope": "volume"}]
    assert short == spec(preprocessing=written)
    assert short.digest() == spec(preprocessing=written).digest()


def test_what_a_bank_of_before_says_has_the_digest_of_before() -> None:
    steps = [
        {"name": "scale_range", "kwargs": {"min_percentile": 1}},
        {"name": "zero_mean_unit_variance", "scope": "tile"},
        {"name": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 3, "std": 2}},
        {"name": "scale_linear"},
        {"name": "clip", "kwargs": {"max": 1}},
    ]
    one = ModelSpec(name="m", format="torchscript", source="/w.pt", preprocessing=steps)
    digest = "605aa405d32583156e65395bcbb70af78d8e216d4c2e0b04bdcfc8f33f28b4f4"
    assert one.digest() == digest
    steps[0]["kwargs"] = {"min_percentile": 1, "channel_wise": True}
    assert one.model_copy(update={"preprocessing": tuple(map(Step.model_validate, steps))}) == one
    steps[0]["kwargs"] = {"min_percentile": 1, "channel_wise": False}
    assert spec(preprocessing=steps).digest() != spec(preprocessing=one.preprocessing).digest()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hallo": 1}, "unknown key 'hallo', did you mean 'halo'"),
        ({"name": "a\nb"}, "printable"),
        ({"name": " a"}, "without spaces"),
        ({"name": "a\u202eb"}, "printable"),
        ({"format": "torchscrip"}, "did you mean 'torchscript'"),
        ({"axes": "xy"}, "'yx' or 'zyx'"),
        ({"halo": {"z": 1, "y": 1, "x": 1}}, "halo must name the axes y, x, not z, y, x"),
        ({"halo": {"y": -1, "x": 1}}, "halo along y must be at least 0, not -1"),
        ({"halo": {"y": 1.5, "x": 1}}, "halo.y"),
        ({"multiple": {"y": 0, "x": 1}}, "multiple along y must be at least 1, not 0"),
        ({"axes": "zyx", "multiple": {"y": 1, "x": 1}}, "must name the axes z, y, x"),
        ({"voxel_size": {"y": 1, "x": 1}}, "voxel_size.unit"),
        ({"voxel_size": {"y": 0, "x": 1, "unit": "nanometer"}}, "greater than 0"),
        (
            {"axes": "zyx", "voxel_size": {"y": 1, "x": 1, "unit": "nanometer"}},
            "voxel_size needs z",
        ),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"source": "https://host/w.pt"}, "sha256 is required for a URL"),
        ({"architecture": None}, "architecture is required"),
        ({"architecture": "monai.networks.nets:UNet"}, "needs trust: true"),
        ({"architecture": "cte_dask.models.unet"}, "'package.module:Class'"),
        ({"architecture": "cte_dask.models.unet:torch.load"}, "'package.module:Class'"),
        ({"format": "your.loader:Thing"}, "needs trust: true"),
        ({"segmenter": {"name": "os:system"}}, "segmenter os:system runs code outside cte_dask"),
        ({"format": "torchscript"}, "no architecture"),
        ({"format": "python", "architecture": None}, "'package.module:function'"),
        ({"format": "python", "architecture": None, "source": "a.b:c"}, "needs trust: true"),
        ({"trust": "yes"}, "trust"),
        ({"output": {"treshold": 1}}, "did you mean 'threshold'"),
        ({"output": {"threshold": 1.0}}, "less than 1"),
        ({"output": {"channel": -1}}, "greater than or equal to 0"),
        ({"in_channels": 0}, "greater than or equal to 1"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_accepted(
    keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=r"[\s\S]*") as caught:
        spec(**keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "scale_rang"}, "did you mean 'scale_range'"),
        ({"name": "clip", "kwargs": {"minimum": 0}}, "did you mean 'min'"),
        ({"name": "clip"}, "clip needs min, max or both"),
        ({"name": "clip", "kwargs": {"min": 2, "max": 1}}, "min 2 must be below max 1"),
        ({"name": "scale_range", "kwargs": {"min_percentile": 60, "max_percentile": 40}}, "below"),
        ({"name": "scale_range", "kwargs": {"max_percentile": 101}}, "less than or equal to 100"),
        ({"name": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 0, "std": 0}}, "greater"),
        ({"name": "scale_linear", "kwargs": {"gain": "nan"}}, "finite"),
        ({"name": "ensure_dtype", "kwargs": {"dtype": "float33"}}, "'float32'"),
        ({"name": "clip", "kwargs": {"min": 0}, "scope": "image"}, "'volume' or 'tile'"),
    ],
)
def test_a_bad_preprocessing_step_is_refused(step: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=r"[\s\S]*") as caught:
        spec(preprocessing=[step])
    assert message in str(caught.value)


RANGE = {"min_percentile": 1, "channel_wise": False}


@pytest.mark.parametrize(
    ("step", "keys", "message"),
    [
        ({"name": "fixed_zero_mean_unit_variance", "kwargs": {"mean": [1, 2, 3], "std": 1}}, {},
         "mean of fixed_zero_mean_unit_variance has 3 numbers, the network takes 1 channel: give "
         "one for each, or say in_channels: 3"),
        ({"name": "scale_linear", "kwargs": {"offset": [1, 2]}}, {"channels": "rgb"},
         "offset of scale_linear has 2 numbers, the network takes 3 channels"),
        ({"name": "scale_linear", "channel": 1}, {}, "of channel 1: the network takes 1"),
        ({"name": "scale_linear", "kwargs": {"gain": [1]}, "channel": 0}, {}, "takes one number"),
        ({"name": "scale_range", "kwargs": RANGE, "channel": 0}, {}, "no channel_wise: false"),
        ({"name": "scale_range", "kwargs": RANGE}, {"channels": [0, 1]},
         "from percentile 1 to 100 of the whole target: those of 2 channels together do not follow "
         "from those of each; use scope: tile"),
        ({"name": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 1, "std": [1, 0]}}, {},
         "std.each.1"),
        ({"name": "scale_linear", "kwargs": {"gain": []}}, {}, "gain.each"),
        ({"name": "scale_range", "kwargs": {"channel_wise": "no"}}, {}, "channel_wise"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_the_channels_are_refused(
    step: dict[str, object], keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=r"[\s\S]*") as caught:
        spec(preprocessing=[step], **keys)
    assert message in str(caught.value)


def test_steps_that_fit_the_channels_are_taken() -> None:
    linear = {"name": "scale_linear", "kwargs": {"gain": [1, 2, 3]}}
    spec(preprocessing=[linear], channels="rgb")
    spec(preprocessing=[linear], channels="red", in_channels=3)
    together = {"name": "scale_range", "kwargs": RANGE}
    spec(preprocessing=[together])  # one channel, repeated or not, is all there is
    spec(preprocessing=[together | {"scope": "tile"}], channels="rgb")
    spec(preprocessing=[{"name": "scale_range", "kwargs": {"channel_wise": False}}], channels="rgb")
    # a package may yet say how many channels its network takes
    ModelSpec(name="m", format="bioimageio", source="/p", preprocessing=[linear])
    clip = {"name": "clip", "kwargs": {"max": 1}, "channel": 0}
    mean = {"name": "zero_mean_unit_variance"}
    spec(preprocessing=[clip, mean | {"channel": 1}], in_channels=2)
    with pytest.raises(ValueError, match="cannot follow clip"):
        spec(preprocessing=[clip, mean], in_channels=2)


def test_a_mean_that_nobody_can_know_is_refused() -> None:
    clip = {"name": "clip", "kwargs": {"min": 0}}
    with pytest.raises(ValueError, match="cannot follow clip"):
        spec(preprocessing=[clip, {"name": "zero_mean_unit_variance"}])
    spec(preprocessing=[clip, {"name": "zero_mean_unit_variance", "scope": "tile"}])
    spec(preprocessing=[{"name": "zero_mean_unit_variance"}, clip])


def test_a_layer_may_be_named_alone(spec_of: Callable[..., ModelSpec]) -> None:
    assert spec_of("w", layers="encoders.1").layers == ("encoders.1",)


def test_listing_a_bank_imports_neither_torch_nor_dask() -> None:
    code = (
        "import sys; from cte_dask.models import ModelSpec, ModelBank, load_bank, BankError;"
        "import cte_dask.models.preprocessing, cte_dask.models.source;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'dask', 'distributed', 'zarr')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
