"""BioImage.IO packages: what they say is honoured, under what the bank says."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import bioimageio_packages as made
import channel_networks
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from cte_dask.inference.check import check_spec
from cte_dask.inference.inputs import samples
from cte_dask.inference.needs import with_needs
from cte_dask.inference.preprocess import preprocess
from cte_dask.models.described import described
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError
from cte_dask.models.source import pinned
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet
from cte_dask.perturb.views import TileContext, view_of
from cte_dask.volume import intensity_statistics, open_volume

pytest.importorskip("bioimageio.spec")

STANDARD = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": 1e-6}}
RANGE = {
    "id": "scale_range",
    "kwargs": {"axes": ["y", "x"], "min_percentile": 2.0, "max_percentile": 99.0},
}
FIXED = {"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 0.4, "std": 0.3}}
LINEAR = {"id": "scale_linear", "kwargs": {"gain": 2.0, "offset": -1.0}}
CLIP = {"id": "clip", "kwargs": {"min": -1.0, "max": 1.0}}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(own: socket.socket, address: Any) -> None:
        if own.family != socket.AF_UNIX:  # those lead to other processes of this machine
            raise AssertionError("a local package needs no network")
        connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "package"
    path.mkdir()
    return path


def spec_of(source: Path, **keys: Any) -> ModelSpec:
    entry = {"name": "zoo", "format": "bioimageio", "source": str(source)} | keys
    return ModelSpec.model_validate(entry)


def package(folder: Path, unet: nn.Module, **keys: Any) -> ModelSpec:
    weights = {"pytorch_state_dict": made.state_dict_weights(folder, unet)}
    made.write_rdf(folder, made.description(folder, **({"weights": weights} | keys)))
    return spec_of(folder)


class Whole:
    """Statistics of one array."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.mean, self.std = x, float(x.mean()), float(x.std())

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.x, q))


def reference(spec: ModelSpec, image: np.ndarray, *, halo: int) -> np.ndarray:
    """Our own prediction of one plane that is the whole target; its frame is mirrored first."""
    frame = np.pad(image, halo, mode="symmetric")
    ready = preprocess([frame], spec.preprocessing, [Whole(frame)])[0]
    with torch.no_grad():
        y = load_network(spec).forward(torch.from_numpy(ready)[None, None])
    match spec.output.activation:
        case "sigmoid":
            y = y.sigmoid()
        case "softmax":
            y = y.softmax(1)
    return y[0, :, halo : halo + image.shape[0], halo : halo + image.shape[1]].numpy()


def refusal(spec: ModelSpec) -> str:
    with pytest.raises(ModelError) as caught:
        load_network(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("way", ["rdf.yaml", "folder", "zip"])
def test_a_package_fills_in_what_the_bank_does_not_say(way: str, folder: Path, unet: UNet) -> None:
    package(folder, unet, pre=[STANDARD], post=[{"id": "sigmoid"}])
    sources = {"rdf.yaml": folder / "rdf.yaml", "folder": folder, "zip": made.zipped(folder)}
    spec = described(pinned(spec_of(sources[way])))
    assert (spec.axes, spec.in_channels) == ("yx", 1)
    assert spec.halo == {"y": 8, "x": 8}
    assert spec.multiple == {"y": 2, "x": 2}
    assert spec.voxel_size_nm == (None, 100.0, 100.0)
    assert [(s.name, s.scope) for s in spec.preprocessing] == [("zero_mean_unit_variance", "tile")]
    assert spec.output.activation == "sigmoid"
    assert described(spec) == spec
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(load_network(spec).forward(x), unet(x))


def test_what_the_bank_says_wins(folder: Path, unet: UNet) -> None:
    package(folder, unet, pre=[STANDARD], post=[{"id": "sigmoid"}])
    keys = {
        "halo": {"y": 3, "x": 3},
        "preprocessing": [{"name": "scale_range", "scope": "volume"}],
        "output": {"threshold": 0.3},
    }
    spec = described(spec_of(folder, **keys))
    assert spec.halo == {"y": 3, "x": 3}
    assert [s.name for s in spec.preprocessing] == ["scale_range"]
    assert spec.output.threshold == 0.3
    assert spec.output.activation == "sigmoid"
    with pytest.raises(ValueError, match="axes zyx in the bank, yx in the package"):
        described(spec_of(folder, axes="zyx"))


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ({"id": "zero_mean_unit_variance", "kwargs": {}}, "volume"),
        ({"id": "scale_range", "kwargs": {"axes": ["batch", "channel", "y", "x"]}}, "volume"),
        ({"id": "scale_range", "kwargs": {"axes": ["y", "x"]}}, "tile"),
    ],
)
def test_statistics_of_a_dataset_are_those_of_the_target(
    pre: dict[str, Any], expected: str, folder: Path, unet: UNet
) -> None:
    spec = described(package(folder, unet, pre=[pre]))
    assert [s.scope for s in spec.preprocessing] == [expected]


@pytest.mark.parametrize(
    ("post", "output"),
    [
        ([], ("none", 0.5)),
        ([{"id": "sigmoid"}], ("sigmoid", 0.5)),
        ([{"id": "softmax", "kwargs": {"axis": "channel"}}], ("softmax", 0.5)),
        ([{"id": "sigmoid"}, {"id": "binarize", "kwargs": {"threshold": 0.7}}], ("sigmoid", 0.7)),
        ([{"id": "sigmoid"}, {"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}}], ("sigmoid", 0.5)),
    ],
)
def test_its_postprocessing_becomes_the_output(
    post: list[Any], output: tuple[str, float], folder: Path, unet: UNet
) -> None:
    spec = described(package(folder, unet, post=post))
    assert (spec.output.activation, spec.output.threshold) == output


def test_unknown_processing_is_refused_unless_the_bank_says_it_all(
    folder: Path, unet: UNet
) -> None:
    post = [{"id": "sigmoid"}, {"id": "scale_linear", "kwargs": {"gain": 255.0}}]
    package(folder, unet, pre=[{"id": "binarize", "kwargs": {"threshold": 0.5}}], post=post)
    assert "preprocessing step binarize" in refusal(spec_of(folder))
    assert "postprocessing scale_linear" in refusal(spec_of(folder, preprocessing=[]))
    complete = spec_of(folder, preprocessing=[], output={"activation": "sigmoid"})
    assert load_network(complete).kind == "module"


@pytest.mark.slow
# bioimageio.core leaves files open, and uses what torch deprecates.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is:DeprecationWarning")
@pytest.mark.parametrize(
    ("pre", "post", "halo"),
    [
        ([STANDARD], [{"id": "sigmoid"}], 0),
        ([RANGE, CLIP], [{"id": "sigmoid"}], 8),
        ([FIXED, LINEAR], [], 0),
        ([{"id": "zero_mean_unit_variance", "kwargs": {}}], [{"id": "sigmoid"}], 8),
    ],
)
@pytest.mark.parametrize("kind", ["pytorch_state_dict", "torchscript", "onnx"])
def test_its_own_runtime_gives_the_same_output(
    kind: str, pre: list[Any], post: list[Any], halo: int, folder: Path, unet: UNet
) -> None:
    core = pytest.importorskip("bioimageio.core")
    spec_library = pytest.importorskip("bioimageio.spec")
    weights = {kind: made.weights_of(kind, folder, unet)}
    package(folder, unet, weights=weights, pre=pre, post=post, halo=halo)
    image = np.random.default_rng(0).random((48, 32), np.float32)
    model = spec_library.load_model_description(folder / "rdf.yaml", perform_io_checks=False)
    theirs = core.predict(model=model, inputs=image[None, None]).members["mask"].data.to_numpy()
    ours = reference(described(spec_of(folder)), image, halo=halo)
    assert theirs.std() > 1e-3
    # Folded gains differ in the last bits of float32: relative to the largest logit.
    assert np.abs(ours - theirs[0]).max() <= 4e-6 * max(1.0, np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Conversion of channel size:UserWarning")
@pytest.mark.filterwarnings("ignore:Computed dataset percentiles:UserWarning")
@pytest.mark.parametrize(
    ("step", "kwargs"),
    [
        ("zero_mean_unit_variance", {"mode": "per_sample", "axes": "yx"}),
        ("zero_mean_unit_variance", {"mode": "fixed", "axes": "yx", "mean": 0.4, "std": 0.3}),
        ("scale_range", {"mode": "per_sample", "axes": "yx", "max_percentile": 98.0}),
        ("scale_range", {"mode": "per_dataset", "axes": "yx", "max_percentile": 98.0}),
    ],
)
@pytest.mark.parametrize("shape", [None, [1, 1, 48, 32]], ids=["parametrised", "fixed"])
def test_the_runtime_of_an_older_package_gives_the_same_output(
    shape: list[int] | None, step: str, kwargs: dict[str, Any], folder: Path, unet: UNet
) -> None:
    core = pytest.importorskip("bioimageio.core")
    spec_library = pytest.importorskip("bioimageio.spec")
    entry = made.weights_of("pytorch_state_dict", folder, unet)
    made.as_of_0_4(entry)
    keys: dict[str, Any] = {
        "pre": [{"name": step, "kwargs": kwargs}],
        "post": [{"name": "sigmoid"}],
    }
    if shape is not None:
        keys |= {"shape": shape, "output_shape": shape}
    document = made.description_0_4(folder, weights={"pytorch_state_dict": entry}, halo=0, **keys)
    document["outputs"][0]["postprocessing"] = [{"name": "sigmoid"}]
    made.write_rdf(folder, document)
    image = np.random.default_rng(0).random((48, 32), np.float32)
    model = spec_library.load_model_description(folder / "rdf.yaml", perform_io_checks=False)
    theirs = core.predict(model=model, inputs=image[None, None]).members["mask"].data.to_numpy()
    ours = reference(described(spec_of(folder)), image, halo=0)
    assert theirs.std() > 1e-3
    assert np.abs(ours - theirs[0]).max() <= 4e-6


IMAGENET = {
    "id": "fixed_zero_mean_unit_variance",
    "kwargs": {"axis": "channel", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
LINEARS = {
    "id": "scale_linear",
    "kwargs": {"axis": "channel", "gain": [2.0, 1.0, 0.5], "offset": [0.0, -1.0, 0.25]},
}
OVER = {
    "id": "scale_range",
    "kwargs": {"axes": ["channel", "y", "x"], "min_percentile": 2.0, "max_percentile": 99.0},
}
OLDER = [
    {"name": "zero_mean_unit_variance",
     "kwargs": {"mode": "fixed", "axes": "yx", "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.1]}},
    {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "cyx"}},
    {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "yx"}},
    {"name": "scale_range",
     "kwargs": {"mode": "per_sample", "axes": "cyx", "max_percentile": 98.0}},
]  # fmt: skip
COLOURS = {"inputs": ("red", "green", "blue"), "halo": 0}


def predicted(spec: ModelSpec, image: np.ndarray, seen: list[int]) -> np.ndarray:
    """Our own logits of a target (c, y, x) that is one tile, without context."""
    spec = described(spec)
    intensity = [intensity_statistics(open_volume(c), percentiles=[0, 1, 99.8, 100]) for c in image]
    view = view_of(None, TileContext((1, *image.shape[1:]), 2, (0, 0, 0), (1, 1, 1)))
    options: Any = {"view": view, "like": torch.empty(0)}
    frames = image[None, seen, None]
    x = samples(frames, spec, intensity=[intensity[c] for c in seen], **options)
    with torch.no_grad():
        y: np.ndarray = load_network(spec).forward(x).numpy()
    return y[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Conversion of channel size:UserWarning")
@pytest.mark.filterwarnings("ignore:Computed dataset percentiles:UserWarning")
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
@pytest.mark.parametrize(
    "pre",
    [
        [IMAGENET],
        [STANDARD, LINEARS],  # its runtime takes statistics of the raw image only
        [{"id": "zero_mean_unit_variance", "kwargs": {}}],
        [{"id": "scale_range", "kwargs": {"axes": ["batch", "channel", "y", "x"]}}, IMAGENET],
        [OVER, CLIP],
        [OVER, IMAGENET],
        [RANGE],
        *([one] for one in OLDER),
    ],
    ids=lambda pre: "+".join(str(s.get("id", s)) for s in pre),
)
def test_its_own_runtime_gives_the_same_output_of_several_channels(
    pre: list[Any], grey: bool, folder: Path
) -> None:
    core = pytest.importorskip("bioimageio.core")
    spec_library = pytest.importorskip("bioimageio.spec")
    network = channel_networks.network(3)
    older = "name" in pre[0]
    weights = {
        "pytorch_state_dict": made.weights_of("pytorch_state_dict", folder, network, channels=3)
    }
    if older:
        made.as_of_0_4(weights["pytorch_state_dict"])
    make = made.description_0_4 if older else made.description
    made.write_rdf(folder, make(folder, weights=weights, pre=pre, **COLOURS))
    image = np.random.default_rng(0).random((3, 48, 32), np.float32) * [[[1]], [[3]], [[0.5]]]
    seen, image = [1] * 3 if grey else [0, 1, 2], image.astype(np.float32)
    model = spec_library.load_model_description(folder / "rdf.yaml", perform_io_checks=False)
    theirs = core.predict(model=model, inputs=image[None, seen]).members["mask"].data.to_numpy()
    ours = predicted(spec_of(folder), image, [1] if grey else seen)
    # percentiles of three equal channels lie between other voxels than those of one
    ranges = any("scale_range" in step.values() for step in pre)
    tolerance = 2e-3 if grey and ranges else 2e-5
    assert np.abs(ours - theirs[0]).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        (OVER, {"axes": ["channel", "y", "x"]}),
        (OVER, {"axes": ["y", "x"]}),
        (IMAGENET, None),
    ],
)
def test_what_a_package_says_of_channels_is_taken_over(
    pre: dict[str, Any], expected: dict[str, Any] | None, folder: Path
) -> None:
    network = UNet(dims=2, features=(4, 8), in_channels=3).eval()
    weights = {"pytorch_state_dict": made.state_dict_weights(folder, network, channels=3)}
    pre = pre if expected is None else pre | {"kwargs": pre["kwargs"] | expected}
    spec = described(package(folder, network, weights=weights, pre=[pre], **COLOURS))
    (step,) = spec.preprocessing
    if expected is None:
        assert (step.kwargs["mean"], step.channel) == (pre["kwargs"]["mean"], None)
    else:
        assert step.joint == ("channel" in expected["axes"])
        assert step.scope == "tile"


@pytest.mark.parametrize(("axes", "joint"), [("yx", False), ("cyx", True)])
def test_the_data_set_of_an_older_package_is_the_target_over_the_axes_that_it_names(
    axes: str, joint: bool, folder: Path
) -> None:
    network = UNet(dims=2, features=(4, 8), in_channels=3).eval()
    weights = {"pytorch_state_dict": made.state_dict_weights(folder, network, channels=3)}
    made.as_of_0_4(weights["pytorch_state_dict"])
    pre = [{"name": "scale_range", "kwargs": {"mode": "per_dataset", "axes": axes}}]
    made.write_rdf(folder, made.description_0_4(folder, weights=weights, pre=pre, **COLOURS))
    (step,) = described(spec_of(folder, channels="rgb")).preprocessing
    assert (step.scope, step.joint) == ("volume", joint)


def test_numbers_for_other_channels_than_it_takes_are_refused_in_one_line(
    folder: Path, unet: UNet
) -> None:
    message = refusal(package(folder, unet, pre=[IMAGENET]))
    assert "mean of fixed_zero_mean_unit_variance has 3 numbers, the network takes 1" in message
    along = IMAGENET | {"kwargs": IMAGENET["kwargs"] | {"axis": "x"}}
    assert "another mean along x is not known" in refusal(package(folder, unet, pre=[along]))
    ranges = {"id": "scale_range", "kwargs": {"min_percentile": 2.0}}
    weights = {
        "pytorch_state_dict": made.state_dict_weights(
            folder, UNet(dims=2, features=(4, 8), in_channels=3), channels=3
        )
    }
    package(folder, unet, weights=weights, pre=[ranges], **COLOURS)
    assert described(spec_of(folder)).preprocessing[0].joint
    assert "those of 3 channels together" in refusal(spec_of(folder, channels="rgb"))


def test_packages_of_one_architecture_share_what_it_decides(tmp_path: Path) -> None:
    codes = []
    for seed, order in enumerate(("bcyx", "bcyx", "bcxy")):
        torch.manual_seed(seed)
        (folder := tmp_path / str(seed)).mkdir()
        spec = package(folder, UNet(dims=2, features=(4, 8)).eval(), order=order, step=4, halo=0)
        codes.append(load_network(described(spec)).code)
    assert codes[0] == codes[1] != codes[2]
    assert codes[0]


@pytest.mark.parametrize("order", ["byxc", "cyx", "yx", "bcxy", "bczyx"])
def test_other_orders_of_axes_are_turned(order: str, folder: Path) -> None:
    dims = 3 if "z" in order else 2
    torch.manual_seed(3)
    network = UNet(dims=dims, features=(4, 8)).eval()
    turned = Theirs(network, order)
    x = torch.rand(2, 1, *((8, 16, 12) if dims == 3 else (16, 12)))
    example = turned.given(x[:1])
    weights = {"torchscript": made.torchscript_weights(folder, turned, example)}
    spec = described(package(folder, network, weights=weights, order=order, step=4, halo=0))
    assert spec.axes == ("zyx" if dims == 3 else "yx")
    with torch.no_grad():
        for sample in x:
            got = load_network(spec).forward(sample[None])
            torch.testing.assert_close(got, network(sample[None]), rtol=1e-5, atol=1e-5)


class Theirs(nn.Module):
    """A network that takes and gives its axes in another order."""

    def __init__(self, network: nn.Module, order: str) -> None:
        super().__init__()
        self.network, self.order = network, order

    @property
    def ours(self) -> str:
        return "bczyx" if "z" in self.order else "bcyx"

    def given(self, x: torch.Tensor) -> torch.Tensor:
        for place in (1, 0):
            if self.ours[place] not in self.order:
                x = x.squeeze(place)
        left = [a for a in self.ours if a in self.order]
        return x.permute([left.index(a) for a in self.order]).contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = [a for a in self.ours if a in self.order]
        x = x.permute([self.order.index(a) for a in left])
        for place in (0, 1):
            if self.ours[place] not in self.order:
                x = x.unsqueeze(place)
        return self.given(self.network(x))


def test_weights_are_taken_in_order_and_may_be_chosen(folder: Path, unet: UNet) -> None:
    x = torch.rand(1, 1, 32, 32)
    kinds = ("pytorch_state_dict", "torchscript", "onnx")
    weights = {kind: made.weights_of(kind, folder, unet) for kind in kinds}
    for kind in kinds[1:]:
        weights[kind]["parent"] = "pytorch_state_dict"
    spec = package(folder, unet, weights=weights)
    assert load_network(spec).kind == "module"
    for kind, expected in (("torchscript", "script"), ("onnx", "opaque")):
        chosen = load_network(spec_of(folder, arguments={"weights": kind}))
        assert chosen.kind == expected
        torch.testing.assert_close(chosen.forward(x), unet(x), rtol=1e-5, atol=1e-5)
    foreign = {"import_from": "somewhere.else", "callable": "Net"}
    weights["pytorch_state_dict"]["architecture"] = foreign
    assert load_network(package(folder, unet, weights=weights)).kind == "script"
    chosen = spec_of(folder, arguments={"weights": "pytorch_state_dict"})
    assert "somewhere.else:Net runs code" in refusal(chosen)
    ours = {"architecture": "cte_dask.models.unet:UNet", "arguments": {"features": [4, 8]}}
    assert torch.equal(load_network(spec_of(folder, **ours)).forward(x), unet(x))


@pytest.mark.parametrize("packed", [False, True])
def test_onnx_weights_may_lie_in_a_second_file_that_is_named(
    packed: bool, folder: Path, unet: UNet
) -> None:
    onnx = pytest.importorskip("onnx")
    entry = made.weights_of("onnx", folder, unet)
    path, data = folder / "model.onnx", folder / "model.data"
    model = onnx.load(path)
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
    entry |= made.file_entry(path)
    unnamed = package(folder, unet, weights={"onnx": entry})
    assert "lie in model.data" in refusal(unnamed)
    entry["external_data"] = made.file_entry(data)
    spec = package(folder, unet, weights={"onnx": entry})
    source = made.zipped(folder) if packed else folder
    x = torch.rand(1, 1, 32, 32)
    got = load_network(spec_of(source)).forward(x)
    torch.testing.assert_close(got, unet(x), rtol=1e-5, atol=1e-5)
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    assert "model.data is" in refusal(spec)


def test_only_tensorflow_weights_are_refused_by_name(folder: Path, unet: UNet) -> None:
    weights = {"keras_hdf5": {"source": "a.h5"}, "tensorflow_saved_model_bundle": {"source": "b"}}
    message = refusal(package(folder, unet, weights=weights))
    assert "has only the weights keras_hdf5, tensorflow_saved_model_bundle" in message
    assert "TensorFlow and Keras are not supported" in message


def test_another_digest_is_refused(folder: Path, unet: UNet) -> None:
    spec = package(folder, unet)
    weights = folder / "weights.pt"
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert "the package says" in refusal(spec)


def test_unpinned_weights_need_the_whole_package_as_source(folder: Path, unet: UNet) -> None:
    entry = made.state_dict_weights(folder, unet)
    del entry["sha256"]
    package(folder, unet, weights={"pytorch_state_dict": entry})
    assert "give its folder or zip as source" in refusal(spec_of(folder / "rdf.yaml"))
    assert load_network(pinned(spec_of(folder))).kind == "module"


def test_a_fixed_extent_is_honoured_unless_the_bank_knows_better(folder: Path, unet: UNet) -> None:
    document = made.description(
        folder, weights={"pytorch_state_dict": made.state_dict_weights(folder, unet)}
    )
    for axis in document["inputs"][0]["axes"][2:]:
        axis["size"] = 32
    made.write_rdf(folder, document)
    spec = described(spec_of(folder))
    assert spec.multiple is None
    assert load_network(spec).fixed_shape == (None, None, 32, 32)
    assert with_needs(spec, limit=64).multiple == {"y": 32, "x": 32}
    overridden = described(spec_of(folder, multiple={"y": 2, "x": 2}))
    assert load_network(overridden).fixed_shape is None


def test_a_check_in_another_process_sees_the_same_model(folder: Path, unet: UNet) -> None:
    report = check_spec(package(folder, unet, post=[{"id": "sigmoid"}]))
    assert report.ok, report.reason
    assert report.halo == (0, 8, 8)
    assert report.greybox == "grey box"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": "dataset"}, "describes no model"),
        ({"inputs": []}, "is not valid"),
        ({"license": None, "name": 3}, "is not valid"),
    ],
)
def test_an_invalid_description_is_one_line(
    change: dict[str, Any], expected: str, folder: Path, unet: UNet
) -> None:
    spec = package(folder, unet)
    document = yaml.safe_load((folder / "rdf.yaml").read_text())
    made.write_rdf(folder, document | change)
    assert expected in refusal(spec)


def test_what_a_description_needs_from_elsewhere_is_refused(folder: Path, unet: UNet) -> None:
    spec = package(folder, unet)
    document = yaml.safe_load((folder / "rdf.yaml").read_text())
    document["inputs"][0]["output_of"] = "affable-shark"
    made.write_rdf(folder, document)
    assert "output of another model" in refusal(spec)
    del document["inputs"][0]["output_of"]
    document["weights"]["pytorch_state_dict"]["source"] = "https://example.org/weights.pt"
    made.write_rdf(folder, document)
    assert "download the whole package" in refusal(spec)
    shutil.rmtree(folder)
    folder.mkdir()
    assert "holds no rdf.yaml" in refusal(spec)
