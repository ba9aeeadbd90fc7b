"""Things from outside: each one file, written from the page on extending, named and really used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import blobs
from documents.pages import FENCE, REPOSITORY
from troubled import cte

import cte_dask
from cte_dask.engine.clusters import planned_workers
from cte_dask.models import load_bank
from cte_dask.models.network import find_loader
from cte_dask.models.source import fetch
from cte_dask.perturb import Perturbation, perturbation_kind
from cte_dask.perturb.philox import key
from cte_dask.perturb.views import TileContext, plain_view
from cte_dask.results.experiment_file import reopen
from cte_dask.volume import open_volume

PAGE = REPOSITORY / "docs" / "how-to" / "extend.md"
ROI = "0:2,0:64,0:64"
WHERE = {"key": (1, 2), "start": (0, -2, 0), "core": (slice(None),) * 3}

Written = Callable[..., ModuleType]
Ranked = Callable[..., dict]


def sections() -> dict[str, str]:
    """The Python of each section of the page."""
    parts = PAGE.read_text().split("\n## ")[1:]
    return {
        part.partition("\n")[0]: "\n\n".join(
            match["text"] for match in FENCE.finditer(part) if match["language"] == "python"
        )
        for part in parts
    }


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Write a section's code as the file ``mine.py``, importable here and by workers."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def write(section: str) -> ModuleType:
        (tmp_path / "mine.py").write_text(sections()[section])
        return import_module("mine")

    yield write
    sys.modules.pop("mine", None)


@pytest.fixture
def ranked(target: Path, bank_path: Path, tmp_path: Path) -> Ranked:
    """Rank with some options; returns what ranking.json says."""

    def rank(*options: str, target: object = target, bank: Path = bank_path, out="RUN") -> dict:
        words = [target, "--bank", bank, "--out", tmp_path / out, "--roi", ROI, "--quiet"]
        default = () if "--cluster" in options else ("--cluster", "none")
        done = cte("rank", *words, "--tile", "1,32,32", *default, *options)
        assert done.exit_code == 0, done.output
        return json.loads((tmp_path / out / "ranking.json").read_text())

    return rank


def scores(ranking: dict, name: str = "") -> dict[str, float]:
    """One score of each model, by default the primary one."""
    name = name or ranking["score"]
    return {m["name"]: m["scores"][name]["cte"] for m in ranking["models"]}


def test_every_section_of_the_page_has_its_test_here() -> None:
    tested = Path(__file__).read_text()
    for section, code in sections().items():
        assert not code or f'written("{section}"' in tested, section


# Perturbations ----------------------------------------------------------------------------------


def test_a_perturbation_of_values(written: Written, ranked: Ranked) -> None:
    mine = written("A perturbation of values")
    wide = mine.Stripes().increment(np.zeros((1, 16, 4), np.float32), 0.2, **WHERE)
    assert wide.dtype == np.float32
    assert 0.15 < abs(wide).max() <= np.float32(0.2)
    inner = {**WHERE, "start": (0, 0, 0)}
    narrow = mine.Stripes().increment(np.zeros((1, 8, 4), np.float32), 0.2, **inner)
    np.testing.assert_array_equal(wide[:, 2:10], narrow)  # no matter how wide the frame is

    ranking = ranked("--perturb", "mine:Stripes:0.02", "--perturb", "mine:Stripes:0.4")
    assert ranking["score"] == "nhd@mine:Stripes:0.02"
    strong = scores(ranking, "nhd@mine:Stripes:0.4")
    assert all(strong[name] < score < 1 for name, score in scores(ranking).items())
    with pytest.raises(ValueError, match=r"must be an amplitude in \(0, 1\]"):
        Perturbation.parse("mine:Stripes:2")


def test_a_perturbation_that_is_a_plain_function(written: Written, ranked: Ranked) -> None:
    written("A perturbation of values")
    ranking = ranked("--perturb", "mine:inverted:0", "--perturb", "mine:inverted:0.9")
    assert ranking["score"] == "nhd@mine:inverted:0"
    assert set(scores(ranking).values()) == {1.0}
    assert max(scores(ranking, "nhd@mine:inverted:0.9").values()) < 1


def test_a_perturbation_of_values_is_calibrated_over_its_own_strengths(
    written: Written, target: Path, bank_path: Path
) -> None:
    written("A perturbation of values")
    volume, bank = open_volume(target, roi=ROI), load_bank(bank_path)
    options = {"tile": (1, 32, 32), "pilot_tiles": 2, "repeats": 1}
    calibration = cte_dask.calibrate(volume, bank, kind="mine:Stripes", **options)
    usual = perturbation_kind("mine:Stripes").strengths
    assert [s.perturbation for s in calibration.strengths] == [f"mine:Stripes:{s}" for s in usual]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_a_perturbation_of_geometry_comes_back_exactly(written: Written, scale: float) -> None:
    written("A perturbation of geometry")
    perturbation = Perturbation.parse("mine:Drifted:0.5")
    context = TileContext((1, 8, 8), 2, (0, 2, 2), (1, 1, 1), scale=(1.0, scale, scale))
    view, plain = perturbation.view(context), plain_view(context)
    assert view.shape[2] - plain.shape[2] >= 0.5 * plain.shape[1]
    frames = torch.rand(2, *view.shape)
    warp = perturbation.warp(view, [key(0, i) for i in range(2)])
    moved = warp.image(frames)
    top, bottom = moved[..., 0, :], moved[..., -1, :]
    assert torch.equal(top[..., :-3], frames[..., 0, 3:])
    assert torch.equal(bottom[..., 2:], frames[..., -1, :-2])
    tiles = frames[:, :, view.before[1] :, view.before[2] :][:, :, :8, :8]
    assert torch.equal(warp.back(moved), tiles)


def test_a_perturbation_of_geometry(written: Written, ranked: Ranked) -> None:
    written("A perturbation of geometry")
    strengths = (0, 0.05, 0.2)
    options = [word for s in strengths for word in ("--perturb", f"mine:Drifted:{s}")]
    ranking = ranked(*options)
    assert ranking["score"] == "nhd@mine:Drifted:0"
    for model in ranking["models"]:
        none, weak, strong = (model["scores"][f"nhd@mine:Drifted:{s}"]["cte"] for s in strengths)
        assert 1 == none > weak > strong > 0
    alone = ranked(
        *options, "--block", "1,1,1", out="ALONE"
    )  # what is read around a tile is enough
    assert alone["models"] == ranking["models"]


def test_a_perturbation_of_features(written: Written, ranked: Ranked) -> None:
    mine = written("A perturbation of features")
    factors = mine.Scaled().multipliers(7, 0.5, mode=None, key=(1, 2))
    assert factors.shape == (7,)
    assert (abs(factors - 1) <= 0.5).all()
    ranking = ranked("--perturb", "mine:Scaled:0", "--perturb", "mine:Scaled:1")
    assert ranking["score"] == "nhd@mine:Scaled:0"
    assert set(scores(ranking).values()) == {1.0}
    assert all(0 < score < 1 for score in scores(ranking, "nhd@mine:Scaled:1").values())


# Metrics, models, segmenters --------------------------------------------------------------------


def test_a_metric(written: Written, ranked: Ranked, tmp_path: Path) -> None:
    mine = written("A metric")
    table = {"n_union": np.array([4, 0]), "n_disagree": np.array([1, 0])}
    np.testing.assert_allclose(mine.DICE(table), [6 / 7, np.nan])
    ranking = ranked("--perturb", "gaussian:0.1", "--metric", "mine:DICE", "--metric", "nhd")
    assert ranking["primary"] == "mine:DICE@gaussian:0.1"
    assert len(scores(ranking)) == 3
    data = cte_dask.read_scores(cte_dask.open_scores(tmp_path / "RUN" / "scores.zarr"))
    dice, nhd = data["mine:DICE"].to_numpy(), data["nhd"].to_numpy()
    np.testing.assert_allclose(dice, 2 * nhd / (1 + nhd))


def test_a_model_format(written: Written, ranked: Ranked, bank_path: Path, tmp_path: Path) -> None:
    written("A model format")
    text = bank_path.read_text()
    for spec in load_bank(bank_path):
        module = find_loader(spec.format).load(spec, fetch(spec)).forward
        torch.save(module, tmp_path / f"{spec.name}.pt")
        text = text.replace(f"{spec.name}.safetensors", f"{spec.name}.pt")
    text = text.replace("format: state_dict", "format: mine:Pickled\n    trust: true")
    lines = [li for li in text.splitlines() if "architecture:" not in li and "arguments:" not in li]
    bank = tmp_path / "bank.yaml"
    bank.write_text("\n".join(lines))
    options = ("--perturb", "gaussian:0.1")
    assert scores(ranked(*options, bank=bank)) == scores(ranked(*options, out="LISTED"))


def test_a_segmenter(written: Written, ranked: Ranked, bank_path: Path) -> None:
    mine = written("A segmenter")
    maps = np.zeros((1, 12, 12), np.float32)
    maps[0, 2:8, 2:8] = 0.9
    maps[0, 10, 10] = 0.9  # the opening takes it away
    assert mine.Opened()(maps).max() == 1
    segmenter = (
        '    segmenter: {name: "mine:Opened", parameters: {iterations: 2}}\n'
        "    trust: true\n    output:"
    )
    own = bank_path.with_name("own.yaml")
    own.write_text(bank_path.read_text().replace("    output:", segmenter))
    options = ("--perturb", "gaussian:0.1", "--metric", "vrand")
    opened, listed = ranked(*options, bank=own), ranked(*options, out="LISTED")
    assert opened["primary"] == "vrand@gaussian:0.1"
    assert all(0 <= score <= 1 for score in scores(opened).values())
    assert scores(opened) != scores(listed)


# Volumes and clusters ---------------------------------------------------------------------------


def test_a_volume_format(
    written: Written, ranked: Ranked, image: np.ndarray, tmp_path: Path
) -> None:
    written("A volume format")
    np.save(tmp_path / "stack.npy", image)
    np.save(tmp_path / "mask.npy", blobs(image.shape) > 100)
    name = f"mine:find_npy::{tmp_path / 'stack.npy'}"
    options = ("--perturb", "gaussian:0.1")
    assert scores(ranked(*options, target=name, out="NPY")) == scores(ranked(*options, out="ZARR"))

    masked = ranked(*options, "--mask", f"mine:find_npy::{tmp_path / 'mask.npy'}", target=name)
    assert masked["target"]["url"] == name
    again = reopen(str(tmp_path / "RUN")).volume  # the run knows which format it needs
    np.testing.assert_array_equal(again.read((1, 2, 3), (2, 9, 9)), image[1:2, 2:9, 3:9])
    assert again.mask.name == f"mine:find_npy::{tmp_path / 'mask.npy'}"


def test_a_volume_format_that_does_not_know_the_target(written: Written) -> None:
    written("A volume format")
    with pytest.raises(ValueError, match=r"stack\.tif is no image of .* 'mine:find_npy'"):
        open_volume("mine:find_npy::stack.tif")
    with pytest.raises(ValueError, match="volume format 'mine:find_npz' cannot be imported"):
        open_volume("mine:find_npz::stack.npz")


@pytest.mark.slow
def test_a_cluster(written: Written, ranked: Ranked, tmp_path: Path) -> None:
    written("A cluster")
    assert planned_workers("mine:LAB", workers=None, threads=1) == 2
    (tmp_path / "theirs.py").write_text(sections()["A perturbation of values"])
    options = ("--perturb", "theirs:Stripes:0.2", "--block", "1,1,2")
    remote = ranked(*options, "--cluster", "mine:LAB:any", "--workers", "1", out="LAB")
    assert scores(remote) == scores(ranked(*options))  # the workers found `theirs`
    assert remote["complete"]
