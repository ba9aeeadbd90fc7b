"""ONNX models: the same numbers, a black box, and weights that stay in their folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import odd_outputs
import pytest
import torch
from torch import nn

from cte_dask.inference.graph.bottleneck import BlackBoxError
from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.inference.needs import with_extents, with_needs
from cte_dask.inference.trial import check_model
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError
from cte_dask.models.source import pinned
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

Make = Callable[..., ModelSpec]


def export_onnx(
    network: nn.Module,
    path: Path,
    *,
    fixed: bool = False,
    external: bool = False,
    opset: int | None = None,
    outputs: tuple[str, ...] = ("logits",),
) -> Path:
    axes = {0: "batch", 2: "y", 3: "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter of torch warns about itself
        torch.onnx.export(
            network,
            (torch.rand(1, 1, 32, 32),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["raw"],
            output_names=list(outputs),
            dynamic_axes=None if fixed else dict.fromkeys(("raw", *outputs), axes),
        )
    if external:
        model = onnx.load(path)
        path.unlink()
        onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    return path


@pytest.fixture
def refusal(spec_of: Make) -> Callable[[Path], str]:
    def refuse(path: Path) -> str:
        with pytest.raises(ModelError) as caught:
            load_network(spec_of(path, format="onnx"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refuse


def test_an_onnx_model_predicts_as_the_network_it_came_from(
    unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    spec = spec_of(export_onnx(unet, tmp_path / "unet.onnx"), format="onnx")
    network = load_network(spec)
    x = torch.rand(3, 1, 40, 24)
    with torch.no_grad():
        torch.testing.assert_close(network.forward(x), unet(x), rtol=1e-5, atol=1e-5)
        first, again = network.forward(x), network.forward(x)
    assert torch.equal(first, again)
    assert network.fixed_batch is None
    assert network.fixed_spatial is None
    with pytest.raises(BlackBoxError, match="black box"):
        feature_path(network, x)


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_operator_sets_old_and_new_predict_the_same(
    opset: int, unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    path = export_onnx(unet, tmp_path / "unet.onnx", opset=opset)
    assert {o.version for o in onnx.load(path).opset_import if not o.domain} == {opset}
    x = torch.rand(2, 1, 40, 24)
    network = load_network(spec_of(path, format="onnx"))
    torch.testing.assert_close(network.forward(x), unet(x), rtol=1e-5, atol=1e-5)


def test_the_needs_of_an_onnx_model_are_measured(unet: UNet, tmp_path: Path, spec_of: Make) -> None:
    spec = spec_of(export_onnx(unet, tmp_path / "unet.onnx"), format="onnx")
    weights = tmp_path / "unet.pt"
    torch.save(unet.state_dict(), weights)
    own = with_needs(spec_of(weights), limit=64)
    assert with_needs(spec, limit=64).halo == own.halo
    assert with_needs(spec, limit=64).multiple == own.multiple
    report = check_model(spec)
    assert report.ok
    assert report.greybox.startswith("black box")


def test_fixed_extents_are_read_from_the_model(unet: UNet, tmp_path: Path, spec_of: Make) -> None:
    path = export_onnx(unet, tmp_path / "unet.onnx", fixed=True)
    network = load_network(spec_of(path, format="onnx"))
    assert network.fixed_shape == (1, 1, 32, 32)


def test_the_type_asked_for_is_given_back(unet: UNet, tmp_path: Path, spec_of: Make) -> None:
    path = export_onnx(unet, tmp_path / "unet.onnx")
    network = load_network(spec_of(path, format="onnx"), dtype=torch.bfloat16)
    x = torch.rand(1, 1, 32, 32)
    output = network.forward(x.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), unet(x), rtol=0.1, atol=0.1)


class _Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x + 2


def test_one_of_several_outputs_is_named(tmp_path: Path, spec_of: Make) -> None:
    path = export_onnx(_Two(), tmp_path / "two.onnx", outputs=("foreground", "boundary"))
    x = torch.rand(1, 1, 32, 32)
    spec = spec_of(path, format="onnx", output={"index": "boundary"})
    torch.testing.assert_close(load_network(spec).forward(x), x + 2)
    with pytest.raises(ValueError, match=r"'foreground' \(1, 1, 32, 32\), 'boundary'"):
        load_network(spec_of(path, format="onnx")).forward(x)


@pytest.mark.parametrize("shape", ["fixed", "free", "unknown"])
def test_channels_that_stand_last_are_found_in_the_file_or_by_trying(
    shape: str, tmp_path: Path, spec_of: Make
) -> None:
    free = {0: "batch", 1: "y", 2: "x"} | ({3: "c"} if shape == "unknown" else {})
    path = tmp_path / "keras.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter of torch warns about itself
        torch.onnx.export(
            odd_outputs.channels_last_in(),
            (torch.rand(1, 32, 48, 1),),
            path,
            dynamo=False,
            input_names=["image"],
            output_names=["mask"],
            dynamic_axes=None if shape == "fixed" else {"image": free, "mask": free},
        )
    spec, network = with_extents(spec_of(path, format="onnx"))
    assert network.adaptations[0] == "it takes images with their channels last"
    assert spec.layout == ("channels_last" if shape == "unknown" else None)
    fixed = {"fixed": (1, 1, 32, 48), "free": (None, 1, None, None), "unknown": None}
    assert network.fixed_shape == fixed[shape]
    x = 255 * torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        want = odd_outputs.formed("image")(x)
    torch.testing.assert_close(network.forward(x), want, rtol=1e-4, atol=1e-4)


def test_weights_in_a_file_of_the_folder_are_used_and_pinned(
    unet: UNet, tmp_path: Path, spec_of: Make, refusal: Callable[[Path], str]
) -> None:
    path = export_onnx(unet, tmp_path / "unet.onnx", external=True)
    assert "give the folder as source" in refusal(path)
    spec = pinned(spec_of(tmp_path, format="onnx"))
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(load_network(spec).forward(x), unet(x), rtol=1e-5, atol=1e-5)
    data = tmp_path / "w.data"
    data.write_bytes(data.read_bytes()[:-4] + b"\1\1\1\1")
    with pytest.raises(ModelError, match="the bank expects"):
        load_network(spec)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/hostname", "link.data"])
def test_weights_outside_of_the_folder_are_refused(
    location: str, unet: UNet, tmp_path: Path, refusal: Callable[[Path], str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = export_onnx(unet, folder / "unet.onnx", external=True)
    (folder / "w.data").rename(tmp_path / "secret.data")
    if location == "link.data":
        (folder / location).symlink_to(tmp_path / "secret.data")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    assert "out of" in refusal(folder)


def test_other_than_one_image_is_refused(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    helper, kind = onnx.helper, onnx.TensorProto

    def written(shapes: list[list[int]], element: int) -> Path:
        inputs = [helper.make_tensor_value_info(f"x{i}", element, s) for i, s in enumerate(shapes)]
        output = helper.make_tensor_value_info("y", element, shapes[0])
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x0"], ["y"])], "g", inputs, [output]
        )
        path = tmp_path / "odd.onnx"
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
            path,
        )
        return path

    assert "takes 2 inputs" in refusal(written([[1, 1, 8, 8]] * 2, kind.FLOAT))
    assert "tensor(int64)" in refusal(written([[1, 1, 8, 8]], kind.INT64))
    assert "takes 2 axes" in refusal(written([[8, 8]], kind.FLOAT))


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07"])
def test_what_is_no_onnx_model_is_named(
    content: bytes, tmp_path: Path, refusal: Callable[[Path], str]
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    assert "broken.onnx is not" in refusal(path)


def test_a_missing_package_is_named_with_its_remedy(
    unet: UNet, tmp_path: Path, refusal: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    path = export_onnx(unet, tmp_path / "unet.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'cte-dask[onnx]'" in refusal(path)
