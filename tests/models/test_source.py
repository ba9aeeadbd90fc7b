from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from cte_dask.models.source import cache_folder, fetch, pinned
from cte_dask.models.spec import ModelSpec

CONTENT = b"weights of a network"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WRONG = "0" * 63 + "a"
Make = Callable[..., ModelSpec]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CTE_CACHE", str(tmp_path / "cache"))
    with fsspec.open("memory://bank/w.pt", "wb") as file:
        file.write(CONTENT)
    return "memory://bank/w.pt"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_local_weights_are_verified_when_their_digest_is_given(
    tmp_path: Path, spec_of: Make
) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(CONTENT)
    assert fetch(spec_of(path)) == path
    assert fetch(spec_of(path, sha256=DIGEST.upper())) == path
    with pytest.raises(ValueError, match=f"{DIGEST}, the bank expects {WRONG}"):
        fetch(spec_of(path, sha256=WRONG))


def test_missing_weights_name_their_path(tmp_path: Path, spec_of: Make) -> None:
    with pytest.raises(ValueError, match=r"no weights at .*none\.pt"):
        fetch(spec_of(tmp_path / "none.pt"))


def test_a_url_is_downloaded_once_and_verified(tmp_path: Path, remote: str, spec_of: Make) -> None:
    spec = spec_of(remote, sha256=DIGEST)
    path = fetch(spec)
    assert path.read_bytes() == CONTENT
    fsspec.filesystem("memory").rm("/bank/w.pt")
    assert fetch(spec) == path
    assert files(tmp_path / "cache") == [path]


def test_a_spoilt_cache_is_downloaded_again(remote: str, spec_of: Make) -> None:
    spec = spec_of(remote, sha256=DIGEST)
    fetch(spec).write_bytes(b"half of it")
    assert fetch(spec).read_bytes() == CONTENT


def test_a_wrong_digest_leaves_nothing_in_the_cache(
    tmp_path: Path, remote: str, spec_of: Make
) -> None:
    with pytest.raises(ValueError, match=f"{DIGEST}, the bank expects {WRONG}"):
        fetch(spec_of(remote, sha256=WRONG))
    assert files(tmp_path / "cache") == []


def test_an_unreachable_url_says_so(tmp_path: Path, remote: str, spec_of: Make) -> None:
    with pytest.raises(ValueError, match=r"memory://bank/none\.pt cannot be read"):
        fetch(spec_of("memory://bank/none.pt", sha256=DIGEST))
    assert files(tmp_path / "cache") == []


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/cte_dask")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/cte_dask")
    monkeypatch.setenv("CTE_CACHE", "/chosen")
    assert cache_folder() == Path("/chosen")


def test_pinned_weights_cannot_change_unnoticed(tmp_path: Path, spec_of: Make) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(CONTENT)
    spec = pinned(spec_of(path))
    assert spec.sha256 == DIGEST
    path.write_bytes(b"other weights")
    with pytest.raises(ValueError, match="the bank expects"):
        fetch(spec)
