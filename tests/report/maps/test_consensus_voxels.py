"""The consensus at the target's own voxels: it lies on them and says what the models say."""

from __future__ import annotations

import json

import ngff_zarr
import numpy as np
import pytest
import zarr
from conftest import blobs, write_bank
from troubled import cte

from cte_dask.results.experiment_file import reopen
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.volume import write_ome_zarr

SHAPE, ROI = (3, 96, 80), "1:3,16:96,0:80"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five models on a region of a target, cut into blocks that do not fill it."""
    folder = tmp_path_factory.mktemp("consensus")
    target = folder / "target.zarr"
    size = {"axes": "zyx", "voxel_size_nm": (40.0, 10.0, 10.0), "chunks": (1, 64, 64)}
    write_ome_zarr(target, blobs(SHAPE), **size)
    bank = write_bank(folder / "bank", 5)
    options = ["--cluster", "none", "--tile", "1,32,32", "--roi", ROI, "--quiet"]
    done = cte("rank", target, "--bank", bank, "--out", folder / "RUN", *options)
    assert done.exit_code == 0, done.output
    return folder / "RUN"


@pytest.fixture(scope="module")
def maps(run):
    result = cte("maps", run, "--voxels", "--cluster", "none", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def image(maps, name):
    path = f"{maps['maps']}/{name}"
    return ngff_zarr.from_ngff_zarr(path, validate=True).images[0]


def test_it_lies_on_the_voxels_of_the_region(maps, run):
    target = ngff_zarr.from_ngff_zarr(str(run.parent / "target.zarr")).images[0]
    for name in ("consensus", "uncertainty"):
        found = image(maps, name)
        assert found.data.shape == (2, 80, 80)
        assert found.scale == target.scale
        assert found.translation == {"z": 40.0, "y": 160.0, "x": 0.0}


def test_where_all_models_agree_it_is_sure_and_says_what_they_say(maps, run):
    seen, unsure = (np.asarray(image(maps, n).data) for n in ("consensus", "uncertainty"))
    votes = np.zeros((5, *seen.shape), bool)
    experiment = reopen(str(run))
    number = {c.name: i for i, c in enumerate(experiment.candidates)}
    for block in range(len(experiment.blocks)):
        for name, tile, (probability,) in predict_tiles(experiment, block, []):
            box = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
            votes[number[name]][box] = probability > 0.5
    everyone, nobody = votes.all(axis=0), ~votes.any(axis=0)
    assert everyone.any()
    assert nobody.any()
    assert seen[everyone].min() > 250
    assert seen[nobody].max() < 5
    split = ~everyone & ~nobody
    assert unsure[split].mean() > 10 * max(unsure[~split].mean(), 1)


def test_of_tiles_it_is_about_the_mean_of_its_voxels(maps, run, tmp_path):
    result = cte("maps", run, "--out", tmp_path / "m.zarr", "--json")
    assert result.exit_code == 0, result.output
    tiles = zarr.open_array(tmp_path / "m.zarr" / "consensus" / "0", mode="r")[:]
    assert tiles.shape == (2, 3, 3)
    voxels = np.asarray(image(maps, "consensus").data) / 255
    first = voxels[0, :32, :32].mean()
    assert tiles[0, 0, 0] == pytest.approx(first, abs=0.2)
    names = json.loads((tmp_path / "m.zarr" / "neuroglancer.json").read_text())["layers"]
    assert [n["name"] for n in names][-3:] == ["consensus", "uncertainty", "winner"]
