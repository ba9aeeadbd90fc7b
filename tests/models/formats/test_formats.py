from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cte_dask.models.format_registry import FORMATS
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError, find_loader
from cte_dask.models.source import pinned
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet

Make = Callable[..., ModelSpec]
Save = Callable[[nn.Module, str], Path]

WAYS = {
    "safetensors": ("state_dict", "module"),
    "pt": ("state_dict", "module"),
    "legacy pt": ("state_dict", "module"),
    "nested": ("state_dict", "module"),
    "data parallel": ("state_dict", "module"),
    "torchscript": ("torchscript", "script"),
    "torch_export": ("torch_export", "graph"),
}


def refusal(spec: ModelSpec) -> str:
    with pytest.raises(ModelError) as caught:
        load_network(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model 'small': ")
    return message


@pytest.mark.parametrize("way", WAYS)
def test_a_network_predicts_the_same_in_every_format(
    way: str, unet: UNet, spec_of: Make, save_as: Save
) -> None:
    format_, kind = WAYS[way]
    network = load_network(spec_of(save_as(unet, way), format=format_))
    x = torch.rand(3, 1, 40, 24)
    with torch.no_grad():
        torch.testing.assert_close(network.forward(x), unet(x), rtol=1e-6, atol=1e-6)
    assert network.kind == kind
    assert network.fixed_batch is None
    assert network.fixed_spatial is None
    assert not any(p.requires_grad for p in network.forward.parameters())
    assert not network.forward.training


def test_every_listed_format_has_a_loader() -> None:
    for format_ in FORMATS:
        assert callable(find_loader(format_).load)


def test_the_random_state_does_not_notice_a_loading(weights: Path, spec_of: Make) -> None:
    before = torch.get_rng_state()
    load_network(spec_of(weights))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_dtype_asked_for_is_given(weights: Path, spec_of: Make) -> None:
    forward = load_network(spec_of(weights), dtype=torch.bfloat16).forward
    assert {p.dtype for p in forward.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"drop": "head.bias"}, "missing: head.bias"),
        ({"add": "extra.weight"}, "unexpected: extra.weight"),
        ({"cut": "head.weight"}, "wrong shapes: head.weight is (1, 3, 1, 1), not (1, 4, 1, 1)"),
        ({"spoil": "head.weight"}, "head.weight hold NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: dict[str, str], expected: str, unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    state = dict(unet.state_dict())
    if "drop" in change:
        del state[change["drop"]]
    if "add" in change:
        state[change["add"]] = torch.zeros(2)
    if "cut" in change:
        state[change["cut"]] = state[change["cut"]][:, :3].contiguous()
    if "spoil" in change:
        state[change["spoil"]] = torch.full_like(state[change["spoil"]], torch.nan)
    save_file(state, tmp_path / "w.safetensors")
    assert expected in refusal(spec_of(tmp_path / "w.safetensors"))


def test_only_the_first_few_of_many_names_are_shown(weights: Path, spec_of: Make) -> None:
    message = refusal(spec_of(weights, arguments={"dims": 2, "features": [4, 8, 16]}))
    assert "missing: " in message
    assert " more" in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"architecture": "cte_dask.models.nowhere:UNet"}, "cannot be imported"),
        ({"architecture": "cte_dask.models.unet:VNet"}, "has no 'VNet'"),
        ({"architecture": "cte_dask.models.unet:Sequence"}, "is not a torch.nn.Module"),
        ({"architecture": "cte_dask.models.loading:load_network"}, "is not a torch.nn.Module"),
        ({"arguments": {"dims": 4}}, "refuses its arguments"),
        ({"arguments": {"depth": 4}}, "refuses its arguments"),
        ({"sha256": "0" * 64}, "the bank expects"),
        ({"source": "/none.pt"}, "no weights at /none.pt"),
    ],
)
def test_a_bad_architecture_or_source_is_one_line(
    keys: dict[str, object], expected: str, weights: Path, spec_of: Make
) -> None:
    entry = {"source": str(weights)} | keys
    assert expected in refusal(spec_of(entry.pop("source"), **entry))


def test_another_packages_module_needs_trust_even_under_our_name(
    weights: Path, spec_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cte_dask.models.unet.Foreign", nn.Identity, raising=False)
    spec = spec_of(weights, architecture="cte_dask.models.unet:Foreign", arguments={})
    assert "needs trust: true" in refusal(spec)


CONTENTS = {
    "empty": (b"", "neither safetensors nor a torch.save file"),
    "text": (b"hello world, this is text", "neither safetensors nor a torch.save file"),
    "huge header": (
        (1 << 62).to_bytes(8, "little") + b"{" + b" " * 50,
        "a header of 4611686018427387904 bytes",
    ),
    "no json": ((20).to_bytes(8, "little") + b"{" + b"x" * 30, "no valid safetensors header"),
    "deep json": (
        (200_001).to_bytes(8, "little") + b'{"a":' + b"[" * 200_000,
        "no valid safetensors header",
    ),
    "lying offsets": (
        (80).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(80),
        "is not a valid safetensors file",
    ),
    "truncated zip": (b"PK\x03\x04" + b"\0" * 40, "cannot be read"),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_damaged_weights_are_refused_in_one_line(what: str, tmp_path: Path, spec_of: Make) -> None:
    content, expected = CONTENTS[what]
    (tmp_path / "w").write_bytes(content)
    assert expected in refusal(spec_of(tmp_path / "w"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "the state dict is empty"),
        ({"a": 1, "b": "text"}, "not a state dict of real tensors: a, b"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "not a state dict of real tensors"),
    ],
)
def test_a_torch_file_without_weights_is_refused(
    value: object, expected: str, tmp_path: Path, spec_of: Make
) -> None:
    torch.save(value, tmp_path / "w.pt")
    assert expected in refusal(spec_of(tmp_path / "w.pt"))


class _Payload:
    """Unpickling this creates a file: what a malicious checkpoint would do and worse."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("way", ["zip", "old", "plain pickle", "nested"])
@pytest.mark.parametrize("format_", ["state_dict", "torchscript", "torch_export"])
def test_a_malicious_pickle_never_runs(
    way: str, format_: str, tmp_path: Path, spec_of: Make
) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "ran"
    payload = {"state_dict": {"a": _Payload(mark)}} if way == "nested" else _Payload(mark)
    if way == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=way != "old")
    refusal(spec_of(path, format=format_))
    assert not mark.exists()
    torch.load(path, weights_only=False) if way != "plain pickle" else pickle.loads(
        path.read_bytes()
    )
    assert mark.exists(), "the payload of this test does nothing"


def test_a_whole_pickled_network_is_refused_with_the_remedy(
    unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    torch.save(unet, tmp_path / "w.pt")
    assert "save the state_dict alone" in refusal(spec_of(tmp_path / "w.pt"))


def test_formats_taken_for_each_other_name_the_right_one(
    unet: UNet, spec_of: Make, save_as: Save
) -> None:
    script, weights = save_as(unet, "torchscript"), save_as(unet, "pt")
    assert "use format torchscript" in refusal(spec_of(script))
    assert "is not a TorchScript archive" in refusal(spec_of(weights, format="torchscript"))
    assert ".pt2 archive" in refusal(spec_of(weights, format="torch_export"))
    assert ".pt2 archive" in refusal(spec_of(script, format="torch_export"))


def test_nan_is_found_in_every_format(unet: UNet, spec_of: Make, save_as: Save) -> None:
    with torch.no_grad():
        unet.head.bias.fill_(torch.inf)
    for way, (format_, _) in WAYS.items():
        spec = spec_of(save_as(unet, way), format=format_)
        assert "hold NaN or infinity" in refusal(spec)


def test_an_exported_program_says_what_it_insists_on(
    unet: UNet, tmp_path: Path, spec_of: Make, export: Callable[..., torch.export.ExportedProgram]
) -> None:
    path = tmp_path / "fixed.pt2"
    torch.export.save(export(unet, fixed=True), path)
    network = load_network(spec_of(path, format="torch_export"))
    assert network.fixed_shape == (2, 1, 32, 32)
    assert (network.fixed_batch, network.fixed_spatial) == (2, (32, 32))
    assert "2, 32, 32" in network.notes[0]


def test_a_program_exported_in_training_mode_is_refused(
    unet: UNet, tmp_path: Path, spec_of: Make, export: Callable[..., torch.export.ExportedProgram]
) -> None:
    torch.export.save(export(unet.train()), tmp_path / "train.pt2")
    message = refusal(spec_of(tmp_path / "train.pt2", format="torch_export"))
    assert "call model.eval() before torch.export" in message


def test_instance_norm_is_not_taken_for_training(
    tmp_path: Path, spec_of: Make, export: Callable[..., torch.export.ExportedProgram]
) -> None:
    network = UNet(dims=2, features=(4, 8), norm="instance").eval()
    torch.export.save(export(network), tmp_path / "i.pt2")
    x = torch.rand(1, 1, 16, 16)
    loaded = load_network(spec_of(tmp_path / "i.pt2", format="torch_export"))
    with torch.no_grad():
        torch.testing.assert_close(loaded.forward(x), network(x))


def test_a_program_of_two_inputs_is_refused(tmp_path: Path, spec_of: Make) -> None:
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    x = torch.rand(1, 1, 8, 8)
    torch.export.save(torch.export.export(Two(), (x, x.clone())), tmp_path / "two.pt2")
    message = refusal(spec_of(tmp_path / "two.pt2", format="torch_export"))
    assert "takes 2 inputs, not one image" in message


def test_half_precision_of_an_exported_program_is_refused(
    unet: UNet, spec_of: Make, save_as: Save
) -> None:
    spec = spec_of(save_as(unet, "torch_export"), format="torch_export")
    with pytest.raises(ModelError, match="the type it was exported in"):
        load_network(spec, dtype=torch.float16)


FACTORY = """
from torch import nn

def make(channels=1, fail=False):
    if fail:
        raise RuntimeError("no such\\nnetwork")
    return nn.Conv2d(channels, 1, 3, padding=1)

def nothing():
    return 3

class Loader:
    def load(self, spec, path):
        from cte_dask.models.network import Network
        return Network(forward=make(), kind="opaque", notes=(str(path),))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_factories.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("factories")
def test_a_trusted_factory_makes_a_network(spec_of: Make) -> None:
    keys = {"format": "python", "trust": True, "arguments": {"channels": 2}}
    network = load_network(spec_of("my_factories:make", **keys))
    assert network.kind == "module"
    assert network.forward(torch.zeros(1, 2, 8, 8)).shape == (1, 1, 8, 8)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        ("my_factories:make", {"fail": True}, "RuntimeError: no such network"),
        ("my_factories:make", {"chanels": 2}, "TypeError"),
        ("my_factories:nothing", {}, "returned a int, not a nn.Module"),
        ("my_factories:none", {}, "has no 'none'"),
        ("no_such_package:make", {}, "cannot be imported"),
    ],
)
def test_a_factory_that_fails_is_one_line(
    source: str, arguments: dict[str, object], expected: str, spec_of: Make
) -> None:
    keys = {"format": "python", "trust": True, "arguments": arguments}
    assert expected in refusal(spec_of(source, **keys))


@pytest.mark.usefixtures("factories")
def test_a_format_may_come_from_outside(weights: Path, spec_of: Make) -> None:
    network = load_network(spec_of(weights, format="my_factories:Loader", trust=True))
    assert (network.kind, network.notes) == ("opaque", (str(weights),))
    assert "cannot be" in refusal(spec_of(weights, format="my_factorys:Loader", trust=True))


def test_old_weights_without_batch_counters_load(unet: UNet, tmp_path: Path, spec_of: Make) -> None:
    state = {k: v for k, v in unet.state_dict().items() if "num_batches" not in k}
    assert len(state) < len(unet.state_dict())
    save_file(state, tmp_path / "old.safetensors")
    x = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        got = load_network(spec_of(tmp_path / "old.safetensors")).forward(x)
        np.testing.assert_array_equal(got.numpy(), unet(x).numpy())


def below(prefix: str, weights: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in weights.items()}


AS_TRAINED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "lightning": (
        lambda w: {"epoch": 3, "state_dict": below("model.", w) | {"loss.weight": torch.ones(2)}},
        "its weights are those named model.* in the file, 1 others left out",
    ),
    "an averaged copy beside": (
        lambda w: {"state_dict": below("ema_net.", {k: 0 * v for k, v in w.items()})
                   | below("net.", w)},
        "its weights are those named net.* in the file",
    ),
    "model": (lambda w: {"model": below("module.", w), "optimizer": {"state": {}}}, ""),
    "nnU-Net": (lambda w: {"network_weights": below("_orig_mod.", w), "trainer_name": "a"}, ""),
}  # fmt: skip


@pytest.mark.parametrize("way", AS_TRAINED)
def test_weights_are_found_where_a_training_framework_saved_them(
    way: str, unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    saved, told = AS_TRAINED[way]
    torch.save(saved(dict(unet.state_dict())), tmp_path / "a.ckpt")
    network = load_network(spec_of(tmp_path / "a.ckpt"))
    x = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        np.testing.assert_array_equal(network.forward(x).numpy(), unet(x).numpy())
    assert "".join(network.notes).startswith(told)
    assert bool(network.notes) == bool(told)


def in_shards(folder: Path, weights: dict[str, Any]) -> dict[str, str]:
    """Write weights as two shards with an index; return the index."""
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["UNet"]}')
    names = sorted(weights)
    shards: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({k: weights[k].contiguous() for k in part}, folder / file)
        shards |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return shards


def test_a_folder_of_one_file_or_of_shards_is_a_source(
    unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    in_shards(tmp_path / "shards", below("backbone.", unet.state_dict()))
    (tmp_path / "one").mkdir()
    save_file(unet.state_dict(), tmp_path / "one" / "model.safetensors")
    x = torch.rand(1, 1, 8, 8)
    for folder in ("shards", "one"):
        network = load_network(pinned(spec_of(tmp_path / folder)))
        with torch.no_grad():
            np.testing.assert_array_equal(network.forward(x).numpy(), unet(x).numpy())


def test_a_folder_of_weights_that_is_not_whole_is_refused(
    unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    folder = tmp_path / "a"
    in_shards(folder, unet.state_dict())
    index = folder / "model.safetensors.index.json"
    for names, expected in (
        ({"a": "../b.safetensors"}, "leads out of the package"),
        ({"a": "model.bin"}, "names 'model.bin', no .safetensors file"),
        ({"a": "gone.safetensors"}, "holds no file gone.safetensors"),
        ({"a": "model-00001-of-00002.safetensors"}, "the weights do not fit the architecture"),
        ({}, "has no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": names}))
        assert expected in refusal(spec_of(folder))
    index.unlink()
    assert "holds 2 .safetensors files and 0 indices" in refusal(spec_of(folder))


def test_a_head_that_the_architecture_has_not_is_refused_by_name(
    unet: UNet, tmp_path: Path, spec_of: Make
) -> None:
    weights = {**unet.state_dict(), "aux_head.weight": torch.ones(1)}
    for number, saved in enumerate((weights, below("model.", weights))):
        torch.save(saved, tmp_path / f"{number}.pt")
        assert "unexpected: aux_head.weight" in refusal(spec_of(tmp_path / f"{number}.pt"))


def test_a_zip_that_is_no_torch_file_is_refused(tmp_path: Path, spec_of: Make) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("version", "1")
    for format_ in ("state_dict", "torchscript", "torch_export"):
        refusal(spec_of(tmp_path / "a.zip", format=format_))
