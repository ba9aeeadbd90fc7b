"""The files of a run: whole, or the old ones stay."""

from __future__ import annotations

import pytest

from cte_dask.results import files

RESULT = {"models": []}


def test_a_ranking_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    files.write_ranking(str(tmp_path), RESULT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"ranking.json", "ranking.csv"}

    class Full:
        """A disk that is full once something has been written."""

        def __init__(self, file) -> None:
            self.file = file

        def write(self, text: str) -> None:
            self.file.write(text[:5])
            self.file.flush()
            raise OSError(28, "No space left on device")

    real = files._whole

    @files.contextmanager
    def full(path, mode):
        with real(path, mode) as file:
            yield Full(file)

    monkeypatch.setattr(files, "_whole", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_ranking(str(tmp_path), {"models": [], "seed": 1})
    assert {n: (tmp_path / n).read_bytes() for n in before} == before
    assert files.read_ranking(str(tmp_path)) == RESULT
