from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cte_dask.models import BankError, ModelBank, load_bank
from cte_dask.models.yaml import parse

BANK = """
schema: cte-bank/1
models:
  vnc-unet:
    format: state_dict
    source: weights/vnc.safetensors
    architecture: cte_dask.models.unet:UNet
    arguments: {dims: 2, features: [16, 32, 64, 96]}
    axes: yx
    halo: {y: 32, x: 32}
    voxel_size: {y: 9.2, x: 9.2, unit: nanometer}
    preprocessing:
      - {name: scale_range, kwargs: {min_percentile: 1, max_percentile: 99.8}, scope: volume}
    output: {channel: 0, activation: sigmoid, threshold: 0.5}
    bottleneck: null
  script:
    format: torchscript
    source: script.pt
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "bank.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(BankError) as caught:
        load_bank(write(folder, text))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder / "bank.yaml"))
    return message


def test_the_bank_of_the_documentation_loads(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, BANK))
    assert bank.names == ("vnc-unet", "script")
    assert [spec.name for spec in bank] == list(bank.names)
    assert len(bank) == 2
    assert bank["vnc-unet"].halo_zyx == (0, 32, 32)
    assert bank["vnc-unet"].voxel_size_nm == (None, 9.2, 9.2)


def test_sources_are_relative_to_the_bank_not_to_where_it_is_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, BANK)
    monkeypatch.chdir(tmp_path.parent)
    bank = load_bank(Path(tmp_path.name) / "bank.yaml")
    assert bank["vnc-unet"].source == str(tmp_path.resolve() / "weights/vnc.safetensors")


def test_a_source_outside_and_a_url_stay_what_they_are(tmp_path: Path) -> None:
    text = BANK.replace("weights/vnc.safetensors", "/elsewhere/w.pt")
    assert load_bank(write(tmp_path, text))["vnc-unet"].source == "/elsewhere/w.pt"
    url = "s3://bucket/script.pt\n    sha256: " + "0" * 63 + "a"
    bank = load_bank(write(tmp_path, BANK.replace("script.pt", url)))
    assert bank["script"].source == "s3://bucket/script.pt"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("schema: cte-bank/1", "schema: cte-bank/2", "schema must be cte-bank/1"),
        ("schema: cte-bank/1", "", "schema must be cte-bank/1, not None"),
        ("models:", "model:", "unknown key 'model', did you mean 'models'"),
        ("halo:", "hallo:", "model 'vnc-unet': unknown key 'hallo', did you mean 'halo'"),
        ("threshold:", "treshold:", "model 'vnc-unet': output: unknown key 'treshold'"),
        ("scale_range", "scale_rnge", "did you mean 'scale_range'"),
        ("weights/vnc.safetensors", "", "model 'vnc-unet': source"),
        ("source: weights/vnc.safetensors", "", "source: this key is required"),
        ("y: 9.2", "y: wide", "model 'vnc-unet': voxel_size.y"),
        ("script:\n    format", "vnc-unet:\n    format", "'vnc-unet' appears twice"),
        ("axes: yx", "axes: yx\n    axes: zyx", "'axes' appears twice"),
        ("axes: yx", "axes: [yx", "not valid YAML"),
        ("axes: yx", "axes: yx\n\thalo: 1", "indent with spaces"),
        ("axes: yx", "name: x", "unknown key 'name'"),
        ("axes: yx", "axes: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("bottleneck: null", "? [a, b]\n    : 1", "a key must be a plain word"),
    ],
)
def test_a_mistake_is_one_line_naming_file_model_and_key(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in BANK
    assert expected in refusal(tmp_path, BANK.replace(old, new))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a bank is a mapping"),
        ("- a\n- b\n", "a bank is a mapping"),
        ("schema: cte-bank/1\n", "no models"),
        ("schema: cte-bank/1\nmodels: {}\n", "no models"),
        ("schema: cte-bank/1\nmodels: [a]\n", "must map names to models"),
        ("schema: cte-bank/1\nmodels: {a: b}\n", "must be a mapping of keys"),
    ],
)
def test_a_file_that_is_no_bank_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_binary_missing_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    for name, expected in {"binary": "UTF-8", "none": "no such", ".": "is a directory"}.items():
        with pytest.raises(BankError, match=expected):
            load_bank(tmp_path / name)


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    started = time.monotonic()
    assert "aliases expand" in refusal(tmp_path, "\n".join(lines))
    assert time.monotonic() - started < 5


def test_a_bomb_of_merges_size_depth_and_recursion_is_refused() -> None:
    merge = ["a0: &a0 {k0: 1, k1: 1}"]
    merge += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
    for text, expected in {
        "\n".join(merge): "aliases expand",
        "a: &a [*a]": "contains itself",
        "x: " + "[" * 5000: "nested too deeply",
        "# " + "x" * 1_000_001: "not a bank",
    }.items():
        with pytest.raises(ValueError, match=expected):
            parse(text)


def test_models_may_share_what_is_written_once(tmp_path: Path) -> None:
    text = """
schema: cte-bank/1
models:
  a: &a {format: torchscript, source: a.pt, axes: yx}
  b: {<<: *a, source: b.pt}
  c: {<<: *a, axes: zyx}
"""
    bank = load_bank(write(tmp_path, text))
    assert [Path(spec.source).name for spec in bank] == ["a.pt", "b.pt", "a.pt"]
    assert bank["c"].axes == "zyx"


def test_a_selection_keeps_its_order_and_refuses_unknown_and_repeated_names(
    tmp_path: Path,
) -> None:
    bank = load_bank(write(tmp_path, BANK))
    assert bank.select(["script", "vnc-unet"]).names == ("script", "vnc-unet")
    with pytest.raises(BankError, match="unknown model 'scrip', did you mean 'script'"):
        bank.select(["scrip"])
    with pytest.raises(BankError, match="appears twice"):
        bank.select(["script", "script"])
    with pytest.raises(BankError, match="no models"):
        bank.select([])


def test_the_digest_depends_on_the_models_only(tmp_path: Path) -> None:
    bank = load_bank(write(tmp_path, BANK))
    assert ModelBank(bank.models[::-1], "elsewhere").digest() == bank.digest()
    assert bank.select(["script"]).digest() != bank.digest()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_a_bank_at_a_url_names_weights_beside_it(tmp_path: Path, served: str) -> None:
    digest = "\n    sha256: " + "a" * 64
    write(
        tmp_path,
        f"schema: cte-bank/1\nmodels:\n  s:\n    format: torchscript{digest}\n    source: w/s.pt\n",
    )
    assert load_bank(f"{served}/bank.yaml")["s"].source == f"{served}/w/s.pt"
    write(tmp_path, "schema: cte-bank/1\nmodels:\n  s: {format: torchscript, source: s.pt}\n")
    with pytest.raises(BankError, match="sha256 is required for a URL"):
        load_bank(f"{served}/bank.yaml")
    write(tmp_path, "schema: cte-bank/1\nmodels:\n  s: {format: torchscript, source: /s.pt}\n")
    with pytest.raises(BankError, match="cannot name a local path"):
        load_bank(f"{served}/bank.yaml")
    with pytest.raises(BankError, match=r"none\.yaml: cannot be read"):
        load_bank(f"{served}/none.yaml")
