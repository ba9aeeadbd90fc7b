"""ModelBank: the source models to rank, read from a bank.yaml without importing torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

from pydantic import ValidationError

from cte_dask.errors import reason
from cte_dask.models import yaml as safe_yaml
from cte_dask.models.spec import ModelSpec, canonical_json
from cte_dask.models.yaml import one_line
from cte_dask.registry import unknown
from cte_dask.storage import is_url, open_file

__all__ = ["SCHEMA", "BankError", "ModelBank", "load_bank"]

SCHEMA = "cte-bank/1"


class BankError(ValueError):
    """A bank that cannot be read; the message is one line naming file, model and key."""


@dataclass(frozen=True, slots=True)
class ModelBank:
    """Source models to rank, in the order of the bank.

    Parameters
    ----------
    models
        At least one; their names are unique.
    path
        File or URL that they were read from, if any.

    Raises
    ------
    BankError
        If there is no model or a name appears twice.
    """

    models: tuple[ModelSpec, ...]
    path: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise BankError(f"{self._where}the bank has no models")
        names = [spec.name for spec in self.models]
        for name in names:
            if names.count(name) > 1:
                raise BankError(f"{self._where}the model name {name!r} appears twice")

    @property
    def _where(self) -> str:
        return f"{self.path}: " if self.path else ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, in order."""
        return tuple(spec.name for spec in self.models)

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, name: str) -> ModelSpec:
        for spec in self.models:
            if spec.name == name:
                return spec
        raise BankError(f"{self._where}{unknown('model', name, self.names)}")

    def select(self, names: Iterable[str]) -> ModelBank:
        """Return a bank of some of the models.

        Parameters
        ----------
        names
            Names of the models, in the order that the result has.

        Raises
        ------
        BankError
            If a name is not in the bank or appears twice, or `names` is empty.
        """
        return ModelBank(tuple(self[name] for name in names), self.path)

    def digest(self) -> str:
        """Return a SHA-256 over the models; neither their order nor the bank's path matters."""
        digests = sorted(spec.digest() for spec in self.models)
        return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def load_bank(path: str | PathLike[str]) -> ModelBank:
    """Read a bank from a YAML file or URL.

    Parameters
    ----------
    path
        File of schema ``cte-bank/1``; sources in it are relative to its folder.

    Returns
    -------
    ModelBank
        The checked models; no weights are read and torch is not imported.

    Raises
    ------
    BankError
        If the file cannot be read; one line names file, model, key and what is accepted.
    """
    where = fspath(path)
    try:
        text = _read(where)
        document = safe_yaml.parse(text)
        entries = _entries(document)
    except ValueError as error:
        raise BankError(f"{where}: {error}") from error
    return ModelBank(tuple(_spec(where, str(k), v) for k, v in entries.items()), where)


def _read(where: str) -> str:
    if not is_url(where) and not Path(where).is_file():
        kind = "is a directory, not a bank file" if Path(where).is_dir() else "no such bank file"
        raise ValueError(kind)
    try:
        with open_file(where, "rb") as file:
            # one byte more than allowed tells a file that is too long, without reading it all
            data = cast("bytes", file.read(safe_yaml.MAX_BYTES + 1))
    # Each file system raises types of its own; the reader needs the reason in one line.
    except Exception as error:
        raise ValueError(f"cannot be read: {reason(error)}") from error
    if len(data) > safe_yaml.MAX_BYTES:
        raise ValueError(f"more than {safe_yaml.MAX_BYTES} bytes: this is not a bank")
    try:
        return data.decode("utf-8-sig")  # drops the byte order mark of Windows editors
    except UnicodeDecodeError as error:
        raise ValueError(f"not a UTF-8 text file ({error.reason} at byte {error.start})") from error


def _entries(document: Any) -> dict[object, Any]:
    if not isinstance(document, dict):
        raise BankError(f"a bank is a mapping with the keys schema ({SCHEMA}) and models")
    for key in document:
        if key not in ("schema", "models"):
            raise ValueError(unknown("key", key, ("schema", "models")))
    if document.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, not {document.get('schema')!r}")
    models = document.get("models")
    if models is None or models == {}:
        raise ValueError("the bank has no models")
    if not isinstance(models, dict):
        raise BankError(f"models must map names to models, not be a {type(models).__name__}")
    return models


def _spec(where: str, name: str, entry: Any) -> ModelSpec:
    if not isinstance(entry, dict):
        raise BankError(f"{where}: model {name!r}: must be a mapping of keys, not {entry!r}")
    if "name" in entry:
        raise BankError(f"{where}: model {name!r}: unknown key 'name': its key is its name")
    try:
        return ModelSpec.model_validate({**entry, **_located(where, entry), "name": name})
    except ValidationError as error:
        raise BankError(f"{where}: model {name!r}: {one_line(error)}") from error


def _located(where: str, entry: dict[str, Any]) -> dict[str, str]:
    """Return the entry's ``source`` as an absolute path or URL; nothing where it is neither."""
    source = entry.get("source")
    if not isinstance(source, str) or not source or entry.get("format") == "python":
        return {}
    if is_url(source):
        return {"source": source}
    if not is_url(where):
        return {"source": str((Path(where).resolve().parent / Path(source).expanduser()).resolve())}
    if Path(source).is_absolute():
        raise BankError(f"{where}: source {source!r}: a bank at a URL cannot name a local path")
    return {"source": _joined(where, source)}


def _joined(base: str, source: str) -> str:
    # urljoin joins URLs of known schemes only, not s3:// or gs://: borrow http, then put back ours.
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{urljoin(f'http://{rest}', source).removeprefix('http://')}"
