"""Consistency maps: what a reader that is not ours finds lies on the tiles' own voxels."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import unquote

import ngff_zarr
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from conftest import blobs
from troubled import EVIL, SHAPE, TILE, VOXEL_NM, cte

from cte_dask.report.maps.viewers import CLIENT
from cte_dask.report.maps.write_maps import _winners, folders
from cte_dask.results.experiment_file import reopen
from cte_dask.volume import write_ome_zarr

TOO_FEW = "2 models of this run have a say, a consensus takes 3: rank a larger bank to see one"


@pytest.fixture(scope="module")
def maps(run) -> dict:
    result = cte("maps", run, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read(path: Path | str):
    """Finest level of an image as ngff-zarr reads it, checked against the NGFF schema."""
    assert zarr.open_group(path, mode="r").attrs["ome"]["version"] == "0.5"
    return ngff_zarr.from_ngff_zarr(str(path), validate=True).images[0]


def tiles_of(run: Path, name: str, perturbation: str):
    table = pq.read_table(run / "tiles.parquet").to_pandas()
    return table[(table.model == name) & (table.perturbation == perturbation)]


def lies_on_its_tiles(image, rows, metric: str, voxel, shift=(0.0, 0.0, 0.0)) -> None:
    """Every tile's value is found at the place of the tile's centre, as the metadata tell it."""
    values = np.asarray(image.data)
    assert list(image.dims) == ["z", "y", "x"]
    assert values.shape == tuple(len(set(rows[f"{a}0"])) for a in "zyx")
    for row in rows.itertuples():
        tile = [getattr(row, f"{a}0") for a in "zyx"]
        # the centre of a whole tile, from voxels whose centres lie at whole numbers
        centre = [s + (t + (n - 1) / 2) * v for s, t, n, v in zip(shift, tile, TILE, voxel)]
        at = tuple(
            (c - image.translation[a]) / image.scale[a] for a, c in zip("zyx", centre, strict=True)
        )
        assert at == pytest.approx(np.rint(at), abs=1e-6)
        found = values[tuple(np.rint(at).astype(int))]
        np.testing.assert_equal(found, np.float32(getattr(row, metric)))


def test_each_map_lies_on_its_tiles(maps, run):
    for name, folder in maps["images"].items():
        rows = tiles_of(run, name, "dropout:0.2")
        assert rows.nhd.isna().any()
        assert rows.nhd.notna().any()
        image = read(f"{maps['maps']}/{folder}")
        lies_on_its_tiles(image, rows, "nhd", VOXEL_NM)
        assert image.axes_units == dict.fromkeys("zyx", "nanometer")


def test_the_map_covers_the_target_as_the_other_reader_sees_it(maps, run):
    target = read(run.parent / "target.zarr")
    image = read(f"{maps['maps']}/{maps['images']['model-0']}")
    for axis, tile, extent in zip("zyx", TILE, SHAPE, strict=True):
        assert image.scale[axis] == pytest.approx(tile * target.scale[axis])
        low, high = (
            i.translation[axis] - i.scale[axis] / 2
            + np.array([0, i.scale[axis] * i.data.shape["zyx".index(axis)]])
            for i in (image, target)
        )  # fmt: skip
        np.testing.assert_allclose(low, high)
        assert high[1] - high[0] == pytest.approx(extent * target.scale[axis])


def test_another_score_can_be_mapped(run, tmp_path):
    result = cte("maps", run, "--out", tmp_path / "m.zarr", "--score", "nhd@gaussian:0.1", "--json")
    assert result.exit_code == 0, result.output
    image = read(tmp_path / "m.zarr" / "model-0")
    lies_on_its_tiles(image, tiles_of(run, "model-0", "gaussian:0.1"), "nhd", VOXEL_NM)


def test_the_winner_is_the_rank_of_the_most_consistent_model(run, tmp_path):
    result = cte("maps", run, "--out", tmp_path / "m.zarr", "--score", "nhd@gaussian:0.1")
    assert result.exit_code == 0, result.output
    ranked = [m for m in json.loads((run / "ranking.json").read_text())["models"] if m["rank"]]
    assert [bool(m["flags"]) for m in ranked] == [False, False, True]
    images = folders([m["name"] for m in ranked])
    values = np.stack([read_values(tmp_path / "m.zarr" / images[m["name"]]) for m in ranked[:2]])
    winner = read_values(tmp_path / "m.zarr" / "winner")
    said = ~np.isnan(values).all(axis=0)
    assert (winner[~said] == 0).all()
    assert (~said[:, 0, 0]).all(), "masked"
    best = np.where(np.isnan(values), -1, values).argmax(axis=0) + 1
    np.testing.assert_array_equal(winner[said], best[said])


def test_the_better_ranked_of_equal_models_wins_and_a_degenerate_one_never():
    values = np.array([[0.2, 0.5, np.nan, np.nan], [0.9, 0.5, 0.1, np.nan], [1.0, 1.0, 1.0, 1.0]])
    found = _winners(values, np.array([True, True, False]))
    assert found.tolist() == [2, 1, 2, 0]


def read_values(path: Path) -> np.ndarray:
    return np.asarray(read(path).data)


def with_units(path: Path, unit: str, scale, shift) -> Path:
    """A target whose metadata speak another unit and start elsewhere than at 0."""
    write_ome_zarr(
        path, blobs((4, 80, 100)), axes="zyx", voxel_size_nm=(1.0, 1.0, 1.0), chunks=(2, 64, 64),
        n_levels=1,
    )  # fmt: skip
    group = zarr.open_group(path, mode="r+")
    ome = dict(group.attrs["ome"])
    (multiscale,) = ome["multiscales"]
    for axis in multiscale["axes"]:
        axis["unit"] = unit
    multiscale["datasets"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": list(scale)},
        {"type": "translation", "translation": list(shift)},
    ]
    group.attrs["ome"] = ome
    return path


def beside_another(path: Path, name: str) -> str:
    """The same target, by its name, in a group of two images."""
    group = zarr.open_group(path, mode="r+")
    ome = dict(group.attrs["ome"])
    group.create_array("other", data=np.zeros((2, 8, 8), np.uint8))
    other = {"name": "other", "axes": [{"name": a} for a in "zyx"], "datasets": [{"path": "other"}]}
    group.attrs["ome"] = {**ome, "multiscales": [other, {**ome["multiscales"][0], "name": name}]}
    return f"{path}::{name}"


@pytest.mark.parametrize("member", ["", "cells"])
def test_maps_speak_the_targets_units_and_start_where_the_region_does(bank_path, tmp_path, member):
    scale, shift = (0.04, 0.01, 0.01), (2.0, -1.0, 0.5)
    target = with_units(tmp_path / "target.zarr", "micrometer", scale, shift)
    target = beside_another(target, member) if member else target
    options = ["--roi", "1:4,9:80,3:99", "--tile", "1,32,32", "--cluster", "none", "--quiet"]
    options += ["--perturb", "dropout:0.2"]
    run = tmp_path / "RUN"
    assert cte("rank", target, "--bank", bank_path, "--out", run, *options).exit_code == 0
    assert reopen(str(run)).volume.member == member
    assert cte("maps", run).exit_code == 0
    image = read(run / "maps.zarr" / "model-1")
    assert image.axes_units == dict.fromkeys("zyx", "micrometer")
    lies_on_its_tiles(image, tiles_of(run, "model-1", "dropout:0.2"), "nhd", scale, shift)


def test_a_plain_array_is_mapped_in_voxels(bank_path, tmp_path):
    zarr.create_array(tmp_path / "plain.zarr", data=blobs((2, 64, 64)), chunks=(1, 64, 64))
    options = ["--tile", "1,32,32", "--cluster", "none", "--quiet"]
    options += ["--perturb", "dropout:0.2"]
    run = tmp_path / "RUN"
    done = cte("rank", tmp_path / "plain.zarr", "--bank", bank_path, "--out", run, *options)
    assert done.exit_code == 0, done.output
    assert cte("maps", run).exit_code == 0
    image = read(run / "maps.zarr" / "model-0")
    assert set(image.axes_units.values()) == {None}
    lies_on_its_tiles(image, tiles_of(run, "model-0", "dropout:0.2"), "nhd", (1.0, 1.0, 1.0))


def test_without_the_target_the_recorded_voxel_size_is_taken_and_said(moved):
    text = (moved / "experiment.yaml").read_text()
    gone = text.replace(f"{moved.parent}", "/nowhere").replace("target.zarr", "gone.zarr")
    (moved / "experiment.yaml").write_text(gone)
    result = cte("maps", moved, "--json")
    found = json.loads(result.stdout)
    assert any("gone.zarr" in note for note in found["notes"])
    rows = tiles_of(moved, "model-0", "dropout:0.2")
    lies_on_its_tiles(read(moved / "maps.zarr" / "model-0"), rows, "nhd", VOXEL_NM)


def test_a_ready_neuroglancer_state_and_napari_command_name_target_and_maps(maps, run):
    state = json.loads(Path(maps["neuroglancer"]).read_text())
    assert json.loads(unquote(maps["link"].removeprefix(CLIENT))) == state
    assert [layer["name"] for layer in state["layers"]] == ["target", *maps["images"], "winner"]
    assert [layer.get("visible", True) for layer in state["layers"]][:3] == [True, True, False]
    root = "http://127.0.0.1:9000"
    served = os.path.commonpath([run.parent, maps["maps"]])
    for layer in state["layers"]:
        url = layer["source"].partition("://")[2]
        assert url.startswith(root)
        assert zarr.open_group(served + unquote(url.removeprefix(root)), mode="r")
    assert state["dimensions"] == {"x": [1e-8, "m"], "y": [1e-8, "m"], "z": [4e-8, "m"]}
    assert state["position"] == [n / 2 for n in SHAPE[::-1]]
    assert maps["napari"].startswith("napari --plugin napari-ome-zarr ")
    assert all(Path(p).is_dir() for p in maps["napari"].split()[3:])
    guide = (Path(maps["maps"]) / "how-to-open.md").read_text()
    assert maps["napari"] in guide
    assert maps["link"] in guide
    assert "http-server" in guide


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("https://host/t.zarr", "zarr://https://host/t.zarr"),
        ("precomputed://https://host/t", "precomputed://https://host/t"),
    ],
)
def test_urls_given_for_a_browser_are_used(run, tmp_path, target, source):
    urls = {"--target-url": target, "--maps-url": "https://host/m.zarr"}
    options = [part for pair in urls.items() for part in pair]
    result = cte("maps", run, "--out", tmp_path / "m.zarr", "--json", *options)
    found = json.loads(result.stdout)
    sources = [
        layer["source"] for layer in json.loads(Path(found["neuroglancer"]).read_text())["layers"]
    ]
    assert sources[0] == source
    assert sources[1].startswith("zarr3://https://host/m.zarr/")
    assert found["notes"] == [TOO_FEW]


def test_existing_maps_are_replaced_only_when_asked_and_other_data_never(moved, run):
    assert cte("maps", moved).exit_code == 0
    again = cte("maps", moved)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert cte("maps", moved, "--overwrite").exit_code == 0
    for taken in (run.parent / "target.zarr", run / "scores.zarr", run / "ranking.json"):
        refused = cte("maps", moved, "--out", taken, "--overwrite")
        assert refused.exit_code == 2, taken
        assert taken.name in refused.stderr
    assert (run / "scores.zarr" / "zarr.json").is_file()


def test_an_unknown_score_is_refused(run, tmp_path):
    result = cte("maps", run, "--out", tmp_path / "m.zarr", "--score", "ei@zoom:2")
    assert result.exit_code == 2
    assert "nhd@dropout:0.2" in result.stderr
    assert not (tmp_path / "m.zarr").exists()


def test_folders_are_plain_and_different_for_any_names():
    names = [EVIL, "a/b", "a b", "../..", "OME", "winner", "ünï", "A_B", "."]
    found = folders(names)
    assert list(found) == names
    assert len({f.lower() for f in found.values()} | {"ome", "winner"}) == len(names) + 2
    assert all(set(f) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
               and not f.startswith(".") for f in found.values())  # fmt: skip
