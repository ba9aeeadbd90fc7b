"""The folder of a run: every file is written and read by its one name, here or far away."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

import cte_dask
from cte_dask.results.layout import layout_of
from cte_dask.results.new_store import create
from cte_dask.results.run_folder import RunFolder, read_calibration
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume

PACKAGE = Path(cte_dask.__file__).parent
SESSION = {"bank": "bank.yaml", "seconds": 1.5}
NUMBERS = count()
NAMES = (
    "experiment.yaml", "scores.zarr", "tiles.parquet", "ranking.json", "ranking.csv", "log.json",
    "calibration.json", "calibration.csv", "evaluation.json", "evaluation-tiles.parquet",
    "report.html", "maps.zarr",
)  # fmt: skip


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    if request.param == "local":
        return RunFolder(str(tmp_path))
    return RunFolder(f"memory://run-folder-{next(NUMBERS)}")


@pytest.fixture(scope="module")
def experiment(target, bank_path):
    volume = open_volume(str(target))
    bank = cte_dask.load_bank(str(bank_path))
    return resolve(volume, bank, tile=(1, 32, 32), block=(6, 3, 4), metrics=("nhd",))


def test_what_is_written_is_read(folder, experiment):
    folder.create()
    folder.write_experiment(experiment)
    assert folder.read_experiment() == json.loads(json.dumps(experiment.to_dict()))
    result = {"models": [], "verdict": "µ"}
    folder.write_ranking(result, "rank,model\n")
    assert folder.read_ranking() == result
    assert not folder.has_calibration()
    folder.write_calibration({"chosen": "dropout:0.2"}, "a,b\n")
    assert folder.has_calibration()
    assert folder.read_calibration() == {"chosen": "dropout:0.2"}
    for url in (folder.url, f"{folder.url}/calibration.json"):
        assert read_calibration(url) == {"chosen": "dropout:0.2"}


def test_sessions_add_up_until_they_are_forgotten(folder):
    folder.create()
    assert folder.read_sessions() == []
    folder.add_session(SESSION)
    folder.add_session({**SESSION, "seconds": 2})
    assert [s["seconds"] for s in folder.read_sessions()] == [1.5, 2]
    folder.add_session(SESSION, anew=True)
    assert folder.read_sessions() == [SESSION]


def test_a_log_that_cannot_be_read_is_no_log(tmp_path):
    (tmp_path / "log.json").write_text('{"schema": "cte-log/1", "sess')
    assert RunFolder(str(tmp_path)).read_sessions() == []
    (tmp_path / "log.json").write_text('{"schema": "another/1", "sessions": [1]}')
    assert RunFolder(str(tmp_path)).read_sessions() == []


def test_a_folder_without_a_run_says_how_to_make_one(folder):
    with pytest.raises(FileNotFoundError, match=r"no finished run at .*cte rank --out"):
        folder.finished()
    with pytest.raises(FileNotFoundError, match=r"no run at .*experiment\.yaml; make it with cte"):
        folder.read_experiment()
    with pytest.raises(FileNotFoundError, match=r"no calibration at .*calibrate --out"):
        read_calibration(folder.url)
    assert folder.read_ranking() is None
    assert not folder.has_scores()


def test_an_experiment_of_another_schema_is_refused(tmp_path):
    (tmp_path / "experiment.yaml").write_text("schema: cte-experiment/9\n")
    with pytest.raises(ValueError, match="is not of schema cte-experiment/1: 'cte-experiment/9'"):
        RunFolder(str(tmp_path)).read_experiment()


def test_a_finished_run_is_its_ranking_its_experiment_and_its_scores(tmp_path, experiment):
    folder = RunFolder(str(tmp_path))
    create(folder.scores_url, layout_of(experiment))
    assert folder.has_scores()
    folder.write_experiment(experiment)
    folder.write_ranking({"models": []}, "rank,model\n")
    run = folder.finished()
    assert run.folder == folder
    assert run.ranking == {"models": []}
    assert run.experiment["hash"] == experiment.digest()
    assert run.scores.layout == layout_of(experiment)


def test_old_results_go_as_a_whole_and_nothing_else(folder):
    folder.create()
    folder.write_ranking({"models": []}, "rank,model\n")
    folder.write_calibration({"chosen": "dropout:0.2"}, "a,b\n")
    folder.add_session(SESSION)
    folder.drop_results()
    assert folder.read_ranking() is None
    assert folder.read_sessions() == []
    assert folder.has_calibration()
    folder.drop_results()  # there is nothing any more


def test_a_ranking_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    folder = RunFolder(str(tmp_path))
    folder.write_ranking({"models": []}, "rank,model\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"ranking.json", "ranking.csv"}

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "mv", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write_ranking({"models": [], "seed": 1}, "rank,model\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", NAMES)
def test_no_other_module_spells_a_file_of_a_run(name):
    spelled = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if f'/{name}"' in path.read_text() or f'"{name}"' in path.read_text()
    ]
    assert spelled == ["results/run_folder.py"]
