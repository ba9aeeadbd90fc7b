"""Files made to do harm: nothing of them runs or is written, and each is a clear refusal."""

from __future__ import annotations

import os
import stat
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bioimageio_packages as made
import pytest
import torch
import yaml
from torch import Tensor, nn

from cte_dask.models.bank import load_bank
from cte_dask.models.loading import load_network
from cte_dask.models.network import ModelError
from cte_dask.models.package import MAX_EXPANSION, Package, folder_digest
from cte_dask.models.spec import ModelSpec
from cte_dask.models.unet import UNet

pytest.importorskip("bioimageio.spec")

UNET = {"architecture": "cte_dask.models.unet:UNet", "arguments": {"features": [4, 8]}}
CODE = """
from pathlib import Path
Path({canary!r}).write_text("ran")
from cte_dask.models.unet import UNet
def network():
    return UNet(dims=2, features=(4, 8))
"""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


class Saves(nn.Module):
    """Writes a file whenever it predicts."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.layer = path, nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.path)
        return self.layer(x)


class Maps(Saves):
    """Overwrites a file whenever it predicts."""

    def forward(self, x: Tensor) -> Tensor:
        mapped = torch.from_file(self.path, True, 9, dtype=torch.uint8)
        return self.layer(x) + mapped.zero_().sum()


class Unpacks(nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        torch.save(self.training, self.path)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "package"
    path.mkdir()
    return path


@pytest.fixture
def refusal(canary: Path, tmp_path: Path) -> Callable[..., str]:
    """Load a model that must be refused, leaving every file as it was."""

    def refuse(source: Path, **keys: Any) -> str:
        before = sorted(tmp_path.rglob("*"))
        entry = {"name": "evil", "source": str(source)} | keys
        with pytest.raises(ModelError) as caught:
            load_network(ModelSpec.model_validate(entry))
        assert not canary.exists()
        assert sorted(tmp_path.rglob("*")) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refuse


@pytest.mark.parametrize("zipped", [True, False])
def test_the_payload_would_run_where_it_is_trusted(
    zipped: bool, tmp_path: Path, canary: Path
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": Payload(canary)}, path, _use_new_zipfile_serialization=zipped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_a_payload_is_not_run(
    zipped: bool, tmp_path: Path, canary: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": Payload(canary)}, path, _use_new_zipfile_serialization=zipped)
    assert "would have to run code" in refusal(path, format="state_dict", **UNET)


def test_a_checkpoint_of_pytorch3dunet_with_a_payload_is_not_run(
    folder: Path, canary: Path, refusal: Callable[..., str]
) -> None:
    model = {"name": "UNet2D", "in_channels": 1, "out_channels": 1, "f_maps": [8, 16]}
    (folder / "config.yml").write_text(yaml.safe_dump({"model": model}))
    checkpoint = {"model_state_dict": {}, "best_eval_score": Payload(canary)}
    torch.save(checkpoint, folder / "best_checkpoint.pytorch")
    assert "would have to run code" in refusal(folder, format="pytorch3dunet")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", [Saves, Maps, Unpacks])
def test_a_script_that_writes_files_is_not_run(
    kind: type[nn.Module], tmp_path: Path, canary: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(kind(str(canary))), path)
    reason = refusal(path, format="torchscript")
    assert "in code/__torch__/" in reason
    assert reason.endswith("is not known to compute only: it needs trust: true")
    load_network(ModelSpec(name="own", format="torchscript", source=str(path), trust=True))
    assert canary.exists() == (kind is Unpacks)


@pytest.mark.parametrize(
    "keys",
    [
        {"format": "payload:Thing"},
        {"format": "python", "source": "payload:Thing"},
        {"format": "state_dict", "architecture": "payload:Thing"},
        {"segmenter": {"name": "payload:Thing"}},
        {"segmenter": {"name": "os:system", "parameters": {"command": "touch canary"}}},
        {"preprocessing": [{"name": "payload:Thing"}]},
        {"variants": [{"scale": 0.5, "preprocessing": [{"name": "payload:Thing"}]}]},
        {"output": {"activation": "payload:Thing"}},
        {"perturbation": "payload:Thing"},
        {"perturbations": ["payload:Thing:0.2"]},
        {"metric": "payload:Thing"},
        {"metrics": ["payload:Thing"]},
    ],
    ids=str,
)
def test_no_key_of_a_bank_names_code_that_runs_without_trust(
    keys: dict[str, Any], tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "payload.py").write_text(CODE.format(canary=str(canary)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    bank = tmp_path / "bank.yaml"
    entry = {"format": "torchscript", "source": "a.pt", **keys}
    bank.write_text(yaml.safe_dump({"schema": "cte-bank/1", "models": {"evil": entry}}))
    with pytest.raises(ValueError, match=r"needs trust: true|unknown|should be|is not"):
        load_bank(bank)
    with pytest.raises(ValueError, match=r"needs trust: true|unknown|should be|is not"):
        ModelSpec.model_validate({"name": "evil", **entry})
    assert not canary.exists()
    assert "payload" not in sys.modules


def _with_code(folder: Path, canary: Path) -> None:
    network = UNet(dims=2, features=(4, 8)).eval()
    code = folder / "network.py"
    code.write_text(CODE.format(canary=str(canary)))
    entry = made.state_dict_weights(folder, network, **made.file_entry(code, callable="network"))
    weights = {"pytorch_state_dict": entry}
    made.write_rdf(folder, made.description(folder, weights=weights))


def test_the_code_of_a_package_runs_only_where_it_is_trusted(
    folder: Path, canary: Path, refusal: Callable[..., str]
) -> None:
    _with_code(folder, canary)
    assert "needs trust: true" in refusal(folder, format="bioimageio")
    assert "needs trust: true" in refusal(made.zipped(folder), format="bioimageio")
    before = folder_digest(folder)
    spec = ModelSpec(name="own", format="bioimageio", source=str(folder), trust=True)
    assert load_network(spec).kind == "module"
    assert canary.exists()
    assert folder_digest(folder) == before


def test_even_trusted_code_must_be_the_code_described(
    folder: Path, canary: Path, refusal: Callable[..., str]
) -> None:
    _with_code(folder, canary)
    with (folder / "network.py").open("a") as file:
        file.write("# one more line\n")
    assert "the package says another" in refusal(folder, format="bioimageio", trust=True)


def test_a_pickle_in_a_package_is_not_run(
    folder: Path, canary: Path, refusal: Callable[..., str]
) -> None:
    _with_code(folder, canary)
    document = yaml.safe_load((folder / "rdf.yaml").read_text())
    torch.save({"w": Payload(canary)}, folder / "weights.pt")
    entry = document["weights"]["pytorch_state_dict"]
    entry["sha256"] = made.digest(folder / "weights.pt")
    entry["architecture"] = {"import_from": "cte_dask.models.unet", "callable": "UNet"}
    made.write_rdf(folder, document)
    assert "would have to run code" in refusal(folder, format="bioimageio")


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:evil"]
)
@pytest.mark.parametrize("format_", ["bioimageio", "pytorch3dunet"])
def test_names_that_lead_out_of_an_archive_are_refused(
    format_: str, name: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rdf.yaml", "type: model\n")
        archive.writestr(name, "evil")
    assert "leads out of the package" in refusal(path, format=format_)


def test_a_link_in_an_archive_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "evil.zip"
    link = zipfile.ZipInfo("rdf.yaml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "is a link" in refusal(path, format="bioimageio")


def test_a_link_out_of_a_folder_is_refused(
    folder: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / "secret.yaml").write_text("type: model\n")
    (folder / "rdf.yaml").symlink_to(tmp_path / "secret.yaml")
    assert "leads out of" in refusal(folder, format="bioimageio")


def test_a_description_cannot_name_a_file_outside(
    folder: Path, canary: Path, refusal: Callable[..., str]
) -> None:
    _with_code(folder, canary)
    document = yaml.safe_load((folder / "rdf.yaml").read_text())
    entry = document["weights"]["pytorch_state_dict"]
    entry["architecture"] = {"import_from": "cte_dask.models.unet", "callable": "UNet"}
    outside = folder.parent / "outside.pt"
    outside.write_bytes((folder / "weights.pt").read_bytes())
    for source in ("../outside.pt", str(outside)):
        entry["source"] = source
        made.write_rdf(folder, document)
        assert "leads out of the package" in refusal(folder, format="bioimageio")


def test_an_archive_that_expands_without_bound_is_refused(
    tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cte_dask.models.package._SMALL", 1000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rdf.yaml", "type: model\n")
        archive.writestr("weights.pt", bytes(1_000_000))
    assert f"more than {MAX_EXPANSION} times" in refusal(path, format="bioimageio")


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lying.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rdf.yaml", bytes(100_000))
    content = path.read_bytes()
    small = struct.pack("<L", 10)
    path.write_bytes(content.replace(struct.pack("<L", 100_000), small))
    with pytest.raises(ValueError, match="cannot be read"):
        Package(path).text("rdf.yaml")


@pytest.mark.parametrize(
    ("format_", "name"), [("bioimageio", "rdf.yaml"), ("pytorch3dunet", "config.yml")]
)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "aliases expand to more than"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("x" * 1_100_000, "longer than"),
        ("a: !!python/object/apply:os.mkdir ['canary']\n", "not valid YAML"),
    ],
)
def test_a_yaml_bomb_is_refused(
    format_: str,
    name: str,
    text: str,
    expected: str,
    folder: Path,
    refusal: Callable[..., str],
) -> None:
    (folder / name).write_text(text)
    assert expected in refusal(folder, format=format_)


@pytest.mark.parametrize("length", [2**63 - 1, 2**40, 10**7])
def test_a_header_that_lies_about_its_length_is_refused(
    length: int, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
    assert "is not a valid safetensors file" in refusal(path, format="state_dict", **UNET)
