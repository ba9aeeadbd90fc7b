"""Models of pytorch-3dunet and PlantSeg: the numbers of the original, and nothing run."""

from __future__ import annotations

import hashlib
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cte_dask.inference.graph.feature_path import feature_path
from cte_dask.inference.needs import with_needs
from cte_dask.models import load_bank
from cte_dask.models.bank import ModelBank
from cte_dask.models.described import described, described_bank
from cte_dask.models.formats.pytorch3dunet.config import Configuration
from cte_dask.models.formats.pytorch3dunet.loader import _network
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError
from cte_dask.models.source import pinned
from cte_dask.models.spec import ModelSpec

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda y: y.softmax(1),
}

# Recorded from pytorch3dunet 1.9.6 with the weights of `fill` and the image of `waves`: number of
# parameters, digest of their names and shapes, four voxels of the first channel of its output.
RECORDED: list[tuple[dict[str, Any], int, str, list[float]]] = [
    (
        {"name": "UNet2D", "layer_order": "bcr", "f_maps": [4, 8, 16]},
        62, "a5af3535df023847", [0.447162, 0.48759, 0.48029, 0.500565],
    ),
    (
        {"name": "UNet3D", "f_maps": 4, "num_levels": 3, "num_groups": 2},
        32, "644778aca6d27efb", [0.647138, 0.056309, 0.280495, 0.000401],
    ),
    (
        {"name": "ResidualUNet3D", "layer_order": "cge", "f_maps": [4, 8], "num_groups": 4},
        25, "8485a46c9e869bab", [0.056878, 0.920319, 0.01759, 0.984814],
    ),
    (
        {"name": "ResidualUNetSE3D", "layer_order": "gcl", "f_maps": [4, 8], "num_groups": 4,
         "out_channels": 2, "final_sigmoid": False},
        43, "09dcc6e2ebd246b5", [0.620087, 0.672272, 0.641443, 0.752878],
    ),
    (
        {"name": "ResidualUNet2D", "layer_order": "cl", "f_maps": [4, 8]},
        19, "496454a55095fc74", [0.355496, 0.057744, 0.078582, 0.31794],
    ),
]  # fmt: skip


def fill(state: dict[str, torch.Tensor]) -> None:
    """Weights as of no training at all, but of a known formula."""
    for number, (name, tensor) in enumerate(sorted(state.items())):
        if not tensor.is_floating_point():
            continue
        count = torch.arange(tensor.numel(), dtype=torch.float64)
        wave = torch.sin(count * 1.7 + number).reshape(tensor.shape)
        if tensor.ndim == 1 and not name.endswith(("bias", "mean")):
            tensor.copy_(wave.abs() + 0.5)
        else:
            fan = tensor[0].numel() if tensor.ndim > 1 else 4
            tensor.copy_(wave * (2 / fan) ** 0.5)


def waves(*shape: int) -> torch.Tensor:
    count = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.cos(count * 0.37).reshape(shape).float()


def section(**keys: Any) -> dict[str, Any]:
    return {"in_channels": 1, "out_channels": 1, "final_sigmoid": True} | keys


def write(
    folder: Path, model: dict[str, Any], *, config: str = "config_train.yml", **rest: Any
) -> ModelSpec:
    folder.mkdir(exist_ok=True)
    (folder / config).write_text(yaml.safe_dump({"model": model, **rest}))
    state = _network(Configuration.model_validate(model)).state_dict()
    fill(state)
    checkpoint = {
        "num_epochs": 7,
        "model_state_dict": state,
        "optimizer_state_dict": {"lr": np.float32(0.1)},
        "best_eval_score": np.float64(0.3),
    }
    torch.save(checkpoint, folder / "best_checkpoint.pytorch")
    return ModelSpec(name="plant", format="pytorch3dunet", source=str(folder))


def small(folder: Path, **rest: Any) -> ModelSpec:
    return write(folder, section(name="UNet2D", f_maps=[4, 8], num_groups=2), **rest)


@pytest.mark.parametrize(("model", "count", "names", "voxels"), RECORDED)
def test_checkpoints_give_the_output_of_the_original(
    model: dict[str, Any], count: int, names: str, voxels: list[float], tmp_path: Path
) -> None:
    spec = described(write(tmp_path, section(**model)))
    network = load_network(spec)
    state = network.forward.state_dict()
    listed = "\n".join(f"{k} {tuple(v.shape)}" for k, v in sorted(state.items()))
    assert len(state) == count
    assert hashlib.sha256(listed.encode()).hexdigest().startswith(names)
    x = waves(1, 1, 16, 20) if spec.dims == 2 else waves(1, 1, 6, 8, 12)
    with torch.no_grad():
        y = ACTIVATIONS[spec.output.activation](network.forward(x))[0, 0].flatten()
    assert y[:: len(y) // 4][:4].tolist() == pytest.approx(voxels, abs=2e-6)


@pytest.mark.parametrize("model", [m for m, *_ in RECORDED], ids=lambda m: m["name"])
def test_its_bottleneck_is_found_and_its_encoder_shared(
    model: dict[str, Any], tmp_path: Path
) -> None:
    spec = described(write(tmp_path, section(**model)))
    x = torch.rand(2, 1, *((16, 16) if spec.dims == 2 else (8, 16, 16)))
    path = feature_path(load_network(spec), x)
    assert path.note == ""
    deepest = model["f_maps"][-1] if isinstance(model["f_maps"], list) else 16
    assert path.channels == (deepest,)
    assert path.layers[0].startswith("encoders.")


def test_models_of_one_configuration_share_what_it_decides(tmp_path: Path) -> None:
    one, other = small(tmp_path / "one"), small(tmp_path / "other")
    wider = write(tmp_path / "wider", section(name="UNet2D", f_maps=[4, 12], num_groups=2))
    codes = [load_network(described(spec)).code for spec in (one, other, wider)]
    assert codes[0] == codes[1] != codes[2]
    assert codes[0]


def test_an_archive_is_as_good_as_a_folder(tmp_path: Path) -> None:
    spec = small(tmp_path / "model")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "model")
    packed = pinned(spec.model_copy(update={"source": archive}))
    x = torch.rand(1, 1, 16, 16)
    assert torch.equal(load_network(packed).forward(x), load_network(spec).forward(x))
    assert described(packed).axes == "yx"


@pytest.mark.parametrize(
    ("loaders", "steps"),
    [
        ({"test": {"transformer": {"raw": [{"name": "Standardize"}, {"name": "ToTensor"}]}}},
         [("zero_mean_unit_variance", "volume")]),
        ({"global_normalization": False, "val": {"transformer": {"raw": [{"name": "Normalize"}]}}},
         [("scale_range", "tile"), ("scale_linear", "volume"), ("clip", "volume")]),
        ({"train": {"transformer": {"raw": [{"name": "Standardize", "mean": 3.0, "std": 2.0}]}}},
         [("fixed_zero_mean_unit_variance", "volume")]),
        ({"val": {"transformer": {"raw": [{"name": "PercentileNormalizer", "pmin": 2}]}}},
         [("scale_range", "volume")]),
        ({"val": {"transformer": {"raw": [
            {"name": "Normalize", "min_value": 0, "max_value": 255, "norm01": True}]}}},
         [("scale_linear", "volume"), ("clip", "volume")]),
    ],
)  # fmt: skip
def test_its_normalisation_becomes_preprocessing(
    loaders: dict[str, Any], steps: list[tuple[str, str]], tmp_path: Path
) -> None:
    spec = described(small(tmp_path, loaders=loaders))
    assert [(s.name, s.scope) for s in spec.preprocessing] == steps


def test_what_the_bank_says_wins(tmp_path: Path) -> None:
    loaders = {"val": {"transformer": {"raw": [{"name": "Standardize"}]}}}
    plain = write(
        tmp_path,
        section(
            name="UNet2D", layer_order="cr", f_maps=[4, 8], final_sigmoid=False, out_channels=2
        ),
        loaders=loaders,
    )
    entry = plain.model_dump(exclude_unset=True) | {"output": {"channel": 1}, "preprocessing": ()}
    spec = described(ModelSpec.model_validate(entry))
    assert spec.preprocessing == ()
    assert spec.output.channel == 1
    assert spec.output.activation == "softmax"
    assert described(spec) == spec
    with pytest.raises(ValueError, match="axes zyx in the bank, yx in the package"):
        described(ModelSpec.model_validate(entry | {"axes": "zyx"}))


def test_its_needs_are_measured_and_a_bank_is_described_as_a_whole(tmp_path: Path) -> None:
    model = section(name="UNet2D", layer_order="cr", f_maps=[4, 8])
    spec = write(tmp_path / "good", model)
    settled = with_needs(spec, limit=64)
    assert settled.halo is not None
    assert settled.multiple is not None
    assert settled.output.activation == "sigmoid"
    broken = ModelSpec(name="broken", format="pytorch3dunet", source=str(tmp_path / "none"))
    bank = described_bank(ModelBank((spec, broken)))
    assert "output" in bank["plant"].model_fields_set
    assert bank["broken"] == broken


def refusal(spec: ModelSpec) -> str:
    with pytest.raises(ModelError) as caught:
        load_network(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "VNet"}, "'UNet2D', 'UNet3D'"),
        ({"name": "UNet2D", "layer_order": "rc"}, "layer_order 'rc'"),
        ({"name": "UNet2D", "layer_order": "cx"}, "layer_order 'cx'"),
        ({"name": "UNet2D", "f_maps": [4]}, "two levels or more"),
        ({"name": "UNet2D", "f_maps": [4, 10], "num_groups": 4}, "do not divide into 4 groups"),
        ({"name": "UNet2D", "f_maps": [4, 16], "num_groups": 2}, "wrong shapes"),
        ({"name": "UNet2D", "f_maps": [4, 8], "upsample": "cubic"}, "upsample 'cubic'"),
        ({"name": "ResidualUNet3D", "f_maps": [4, 8]}, "missing: "),
        ({"name": "UNet2D", "f_maps": [4, 8], "layer_order": "cr"}, "unexpected: "),
    ],
)
def test_what_does_not_fit_is_named(model: dict[str, Any], expected: str, tmp_path: Path) -> None:
    spec = small(tmp_path)
    (tmp_path / "config_train.yml").write_text(yaml.safe_dump({"model": section(**model)}))
    assert expected in refusal(spec)


def test_missing_and_ambiguous_files_are_named(tmp_path: Path) -> None:
    spec = small(tmp_path)
    weights = tmp_path / "best_checkpoint.pytorch"
    weights.rename(tmp_path / "a.pytorch")
    shutil.copy(tmp_path / "a.pytorch", tmp_path / "b.pytorch")
    assert "2 checkpoints" in refusal(spec)
    chosen = spec.model_copy(update={"arguments": {"checkpoint": "b.pytorch"}})
    assert load_network(chosen).kind == "module"
    wrong = spec.model_copy(update={"arguments": {"checkpoint": "../b.pytorch"}})
    assert "no checkpoint '../b.pytorch'" in refusal(wrong)
    (tmp_path / "config_train.yml").write_text("a: 1\n")
    assert "no section model" in refusal(spec)
    (tmp_path / "config_train.yml").unlink()
    assert "0 configurations" in refusal(spec)


def test_an_unpacked_archive_of_models_becomes_a_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nuclei/BBBC 2d", "nuclei/other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        small(tmp_path / name)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "best_checkpoint.pytorch").write_bytes(b"nothing")
    example = Path(__file__).resolve().parents[3] / "examples" / "paper_models.py"
    bank = tmp_path / "bank.yaml"
    monkeypatch.setattr("sys.argv", [str(example), str(tmp_path), "--out", str(bank)])
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert "left out" in said
    assert "loose" in said
    models = load_bank(str(bank)).models
    assert [m.name for m in models] == ["nuclei-BBBC-2d", "nuclei-other"]
    x = waves(1, 1, 16, 16)
    first, second = (load_network(m).forward(x) for m in models)
    assert torch.equal(first, second)
