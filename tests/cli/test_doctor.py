"""The doctor: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
import zarr
from conftest import blobs
from troubled import cte

from cte_dask.cli import doctor
from cte_dask.cli.doctor import OPTIONAL_FOR, SCHEMES, examine, extras_of


def findings(*arguments) -> dict[str, dict[str, str]]:
    result = cte("doctor", *arguments, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == (2 if any(f["state"] == "bad" for f in found) else 0)
    return {f["name"]: f for f in found}


def test_versions_cores_memory_and_devices_are_told():
    found = findings()
    assert found["torch"]["told"] == metadata.version("torch")
    assert found["cte-dask"]["told"] == metadata.version("cte-dask")
    assert "usable" in found["cores"]["told"]
    assert found["memory"]["told"].split()[1] == "GB"
    assert any(name.startswith("GPU") for name in found)


def test_every_extra_of_the_package_is_told_with_what_it_is_for():
    found = findings()
    extras = set(metadata.metadata("cte-dask").get_all("Provides-Extra")) - {"test", "dev"}
    assert extras == {f["name"] for f in found.values() if f["group"] == "extras"}
    assert extras == set(OPTIONAL_FOR)
    assert set(SCHEMES.values()) <= extras


class Declared:
    """A distribution that declares what a test wants."""

    def __init__(self, *requires: str, extras: tuple[str, ...]) -> None:
        self.requires, self.metadata = list(requires), self
        self.extras = extras

    def get_all(self, _name: str) -> list[str]:
        return list(self.extras)


def test_an_extra_lacks_what_is_absent_or_too_old_here(monkeypatch):
    declared = Declared(
        "numpy>=1",
        "no-such-package>=2; extra == 'gone'",
        "numpy>=999; extra == 'old'",
        "numpy>=1; extra == 'there'",
        "elsewhere; extra == 'there' and python_version < '3'",
        "cte-dask[gone]; extra == 'nested'",
        extras=("gone", "old", "there", "nested"),
    )
    real = metadata.distribution
    monkeypatch.setattr(
        doctor.metadata, "distribution", lambda name: declared if name == "cte-dask" else real(name)
    )
    assert extras_of() == {
        "gone": ["no-such-package>=2"],
        "old": ["numpy>=999"],
        "there": [],
        "nested": ["no-such-package>=2"],
    }


def test_a_missing_extra_comes_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(doctor, "extras_of", lambda: {"s3": ["s3fs>=2025.2"], "onnx": []})
    found = {f.name: f for f in examine()}
    assert found["s3"].state == "absent"
    assert "s3fs>=2025.2" in found["s3"].told
    assert found["s3"].remedy == "pip install 'cte-dask[s3]'"
    assert found["onnx"].state == "ok"
    assert "error" not in cte("doctor").output


def test_a_store_that_answers_is_described(target):
    found = findings(target)[str(target)]
    assert found["state"] == "ok"
    assert "uint8 6×88×104" in found["told"]
    assert "metadata in" in found["told"]


def test_a_store_that_does_not_answer_is_told_with_a_remedy(tmp_path):
    found = findings(tmp_path / "no.zarr")[str(tmp_path / "no.zarr")]
    assert found["state"] == "bad"
    assert "no.zarr" in found["told"]
    assert found["remedy"]
    found = findings("http://127.0.0.1:9/a.zarr")["http://127.0.0.1:9/a.zarr"]
    assert found["state"] == "bad"
    assert "network" in found["remedy"]


def test_a_protocol_whose_extra_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setattr(doctor, "extras_of", lambda: {"s3": ["s3fs>=2025.2"]})
    (found,) = [f for f in examine("s3://bucket/a.zarr") if f.group == "store"]
    assert found.remedy == "pip install 'cte-dask[s3]'"


def test_a_target_that_needs_an_option_says_which(tmp_path):
    zarr.create_array(tmp_path / "4d.zarr", data=blobs((2, 8, 8))[None].repeat(2, 0))
    found = findings(tmp_path / "4d.zarr")[str(tmp_path / "4d.zarr")]
    assert found["state"] == "bad"
    assert "--axes czyx" in found["remedy"]
    found = findings(tmp_path / "4d.zarr", "--axes", "tzyx", "--time", "1")
    assert found[str(tmp_path / "4d.zarr")]["state"] == "ok"


def test_secrets_in_a_url_are_not_printed():
    result = cte("doctor", "http://me:secret@127.0.0.1:9/a.zarr?token=secret")
    assert "secret" not in result.output.replace("\n", "")


@pytest.mark.parametrize("quota", ["max 100000", ""])
def test_without_a_limit_no_number_of_workers_is_suggested(monkeypatch, quota):
    monkeypatch.setattr(doctor, "_first_line", lambda _: quota)
    assert {f.name: f for f in examine()}["cores"].remedy == ""


def test_a_limit_on_cores_suggests_as_many_workers(monkeypatch):
    monkeypatch.setattr(doctor, "_first_line", lambda _: "50000 100000")
    found = {f.name: f for f in examine()}["cores"]
    assert found.remedy == "give --workers 1"
    assert "0.5" in found.told
