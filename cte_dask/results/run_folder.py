"""The folder of a run: what lies in it under which name, local or remote.

Nobody else spells these names. A file is written whole or the old one stays
(`cte_dask.storage.files.replacing`), and what writes it stands beside what reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import yaml

from cte_dask.errors import reason
from cte_dask.results.repair import check_sound
from cte_dask.results.store import Scores, counted, open_scores, remove_store
from cte_dask.storage.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

    from cte_dask.scoring.experiment import Experiment

__all__ = ["FinishedRun", "RunFolder", "read_calibration"]

LABELS_AGAIN = "give --labels again"
WRITES_AGAIN = "the command that wrote it writes it again, cte rank with --resume"
RESULTS = (
    "ranking.json",
    "ranking.csv",
    "tiles.parquet",
    "labels.json",
    "log.json",
    "report.html",
    "evaluation.json",
    "evaluation-tiles.parquet",
    *(
        f"evaluation-{figure}.{kind}"
        for figure in ("performance", "agreement", "strength")
        for kind in ("svg", "png")
    ),
)
"""Files of what was found, each of which goes with the scores that it was made of."""
EXPERIMENT_SCHEMA = "cte-experiment/1"
LOG_SCHEMA = "cte-log/1"
LABELS_SCHEMA = "cte-labels/1"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a finished run says.

    Parameters
    ----------
    folder
        Where it lies.
    ranking, experiment
        Content of ``ranking.json`` and ``experiment.yaml``.
    scores
        The part of the score store that the ranking counts.
    """

    folder: RunFolder
    ranking: Mapping[str, Any]
    experiment: Mapping[str, Any]
    scores: Scores


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run.

    Parameters
    ----------
    url
        Path or fsspec URL.

    Examples
    --------
    >>> RunFolder("s3://bucket/RUN").scores_url
    's3://bucket/RUN/scores.zarr'
    """

    url: str

    @property
    def scores_url(self) -> str:
        """Where the score store is."""
        return self._place("scores.zarr")

    @property
    def report_url(self) -> str:
        """Where the report is, unless it was wanted elsewhere."""
        return self._place("report.html")

    @property
    def maps_url(self) -> str:
        """Where the maps are, unless they were wanted elsewhere."""
        return self._place("maps.zarr")

    @property
    def suggestion_url(self) -> str:
        """Where the tiles to label are, unless they were wanted elsewhere."""
        return self._place("suggestion")

    def create(self) -> None:
        """Make the folder, where there is none.

        Raises
        ------
        FileExistsError
            If there is a file in its place.
        """
        filesystem, path = fsspec.core.url_to_fs(self.url)
        try:
            filesystem.makedirs(path, exist_ok=True)
        except FileExistsError as error:
            raise FileExistsError(f"{self.url} is a file: choose a folder for --out") from error

    def has_scores(self) -> bool:
        """Whether there is a score store."""
        return self._exists("scores.zarr")

    def open_scores(self) -> Scores:
        """Return the score store, to read it; see `cte_dask.open_scores`."""
        return open_scores(self.scores_url)

    def finished(self) -> FinishedRun:
        """Return what a finished run says.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If a file of it is damaged, named with what writes it again.
        """
        ranking, experiment = self.read_ranking(), self._yaml("experiment.yaml")
        if ranking is None or experiment is None:
            raise FileNotFoundError(
                f"no finished run at {self.url}: ranking.json or experiment.yaml is missing; make "
                "them with cte rank --out, or go on with --resume"
            )
        for name, data in (("ranking.json", ranking), ("experiment.yaml", experiment)):
            if not isinstance(data, dict) or not isinstance(data.get("models"), list):
                message = f"{self._place(name)} is damaged: {WRITES_AGAIN}"
                raise ValueError(message)  # noqa: TRY004 - the file is wrong, no argument
        scores = self.open_scores()
        check_sound(scores, self.scores_url)
        return FinishedRun(self, ranking, experiment, counted(scores))

    def drop_results(self) -> None:
        """Forget what an earlier run found, before its scores go: none of it fits the next ones.

        A calibration stays, and whatever lies in the folder under other names.
        """
        filesystem, path = fsspec.core.url_to_fs(self.url)
        for name in RESULTS:
            with suppress(FileNotFoundError):
                filesystem.rm_file(f"{path}/{name}")
        if self._exists("maps.zarr"):
            remove_store(self.maps_url)

    def write_experiment(self, experiment: Experiment) -> None:
        """Write ``experiment.yaml``: the resolved run with hashes and versions."""
        with replacing(self._place("experiment.yaml")) as file:
            yaml.safe_dump(experiment.to_dict(), file, sort_keys=False, allow_unicode=True)

    def read_experiment(self) -> dict[str, Any]:
        """Return the content of ``experiment.yaml``.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is of another schema.
        """
        path, data = self._place("experiment.yaml"), self._yaml("experiment.yaml")
        if data is None:
            raise FileNotFoundError(
                f"no run at {self.url}: there is no {path}; make it with cte rank"
            )
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != EXPERIMENT_SCHEMA:
            raise ValueError(f"{path} is not of schema {EXPERIMENT_SCHEMA}: {schema!r}")
        return dict(data)

    def write_ranking(self, result: Mapping[str, Any], table: str) -> None:
        """Write ``ranking.json``, and ``ranking.csv`` as `cte_dask.results.tables` makes it."""
        self._write("ranking.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
        self._write("ranking.csv", table)

    def read_ranking(self) -> Any:
        """Return the content of ``ranking.json``; None if there is none."""
        return self._json("ranking.json")

    def write_tiles(self, tables: Iterator[pa.Table]) -> None:
        """Write ``tiles.parquet``: one row a model, perturbation and tile; a block at a time."""
        import pyarrow.parquet as pq

        first = next(tables, None)
        if first is None:
            return
        with (
            replacing(self._place("tiles.parquet"), "wb") as file,
            pq.ParquetWriter(file, first.schema, compression="zstd") as writer,
        ):
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)

    def write_labels(self, experiment: str, tiles: Sequence[Mapping[str, Any]]) -> None:
        """Write ``labels.json``: what was measured on tiles that somebody labelled.

        Parameters
        ----------
        experiment
            Digest of the run that it was measured for.
        tiles
            Plain data, one a tile.
        """
        data = {"schema": LABELS_SCHEMA, "experiment": experiment, "tiles": list(tiles)}
        self._write("labels.json", json.dumps(data, indent=1, allow_nan=False) + "\n")

    def read_labels(self, experiment: str) -> list[dict[str, Any]]:
        """Return the tiles that `write_labels` wrote for a run of this digest; none if for another.

        Raises
        ------
        ValueError
            If the file is damaged, or of another schema.
        """
        data = self._json("labels.json", f"remove it, and {LABELS_AGAIN}")
        if data is None:
            return []
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != LABELS_SCHEMA:
            raise ValueError(
                f"{self._place('labels.json')} is not of schema {LABELS_SCHEMA}: "
                f"{schema!r}; remove it, and {LABELS_AGAIN}"
            )
        return list(data["tiles"]) if data["experiment"] == experiment else []

    def add_session(self, session: Mapping[str, Any], *, anew: bool = False) -> None:
        """Add a call of ``cte rank`` to ``log.json``: what it did, where, and how long it took.

        Parameters
        ----------
        session
            ``bank``, ``cluster``, ``workers``, ``threads``, ``started`` (ISO 8601, UTC),
            ``seconds``, ``blocks`` and ``state``.
        anew
            Forget earlier calls: their results were dropped.
        """
        sessions = [*([] if anew else self.read_sessions()), dict(session)]
        self._write("log.json", json.dumps({"schema": LOG_SCHEMA, "sessions": sessions}, indent=1))

    def read_sessions(self) -> list[dict[str, Any]]:
        """Return what `add_session` wrote, oldest first; empty if it cannot be read."""
        try:
            data = self._json("log.json")
        except (OSError, ValueError):
            return []
        known = isinstance(data, dict) and data.get("schema") == LOG_SCHEMA
        sessions = data.get("sessions") if known else None
        return [s for s in sessions if isinstance(s, dict)] if isinstance(sessions, list) else []

    def write_calibration(self, result: Mapping[str, Any], table: str) -> None:
        """Write ``calibration.json`` and ``calibration.csv``.

        Parameters
        ----------
        result, table
            Their contents.
        """
        self._write("calibration.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
        self._write("calibration.csv", table)

    def read_calibration(self) -> Any:
        """Return the content of ``calibration.json``; None if there is none."""
        return self._json("calibration.json")

    def has_calibration(self) -> bool:
        """Whether there is a calibration."""
        return self._exists("calibration.json")

    def write_evaluation(self, result: Mapping[str, Any], tiles: Mapping[str, Any]) -> None:
        """Write ``evaluation.json`` and ``evaluation-tiles.parquet``.

        Parameters
        ----------
        result
            Content of the first.
        tiles
            Columns of the second, a row a model and tile.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._write("evaluation.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
        with replacing(self._place("evaluation-tiles.parquet"), "wb") as file:
            pq.write_table(pa.table(dict(tiles)), file, compression="zstd")

    def evaluation_parts_url(self, key: str) -> str:
        """Return where an evaluation keeps its blocks until all are done.

        Parameters
        ----------
        key
            Digest of what decides the numbers of the evaluation.
        """
        return self._place(f"evaluation.parts-{key}")

    def picture(self, name: str) -> AbstractContextManager[Any]:
        """Open a picture to write, such as ``calibration.png``, beside the numbers it shows."""
        return replacing(self._place(name), "wb")

    def _place(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _exists(self, name: str) -> bool:
        filesystem, path = fsspec.core.url_to_fs(self._place(name))
        return bool(filesystem.exists(path))

    def _write(self, name: str, text: str) -> None:
        with replacing(self._place(name)) as file:
            file.write(text)

    def _json(self, name: str, remedy: str = WRITES_AGAIN) -> Any:
        return _json(self._place(name), remedy)

    def _yaml(self, name: str) -> Any:
        with _parsed(self._place(name), WRITES_AGAIN):
            text = _text(self._place(name))
            return None if text is None else yaml.safe_load(text)


def read_calibration(url: str) -> Any:
    """Return the content of a ``calibration.json`` that may lie anywhere.

    Parameters
    ----------
    url
        The file, or the folder that it lies in.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    path = url if url.endswith(".json") else f"{url}/calibration.json"
    if (calibration := _json(path)) is None:
        raise FileNotFoundError(f"no calibration at {path}: make one with cte calibrate --out")
    return calibration


def _json(url: str, remedy: str = WRITES_AGAIN) -> Any:
    with _parsed(url, remedy):
        text = _text(url)
        return None if text is None else json.loads(text)


@contextmanager
def _parsed(url: str, remedy: str) -> Iterator[None]:
    """Name the file that is no text, or not the document that was written."""
    try:
        yield
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{url} is damaged ({reason(error)}): {remedy}") from error


def _text(url: str) -> str | None:
    try:
        with fsspec.open(url, "r", encoding="utf-8") as file:
            return str(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
