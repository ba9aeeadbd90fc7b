"""What the doctor tells of a target: all that is known of it, and one remedy that fits."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from cte_dask.cli.doctor import place_remedy
from cte_dask.cli.doctor_target import examine_target
from cte_dask.scoring.settings import OpeningOptions
from cte_dask.volume import write_ome_zarr

CHANNELS = {"channels": [{"label": "DAPI"}, {"label": "actin"}]}


def findings(target, **options) -> dict[str, tuple[str, str, str]]:
    """State, text and remedy of each line, by its name; the first one by ``target``."""
    first, *others = examine_target(str(target), OpeningOptions(**options), place_remedy)
    return {
        name: (f.state, f.told, f.remedy)
        for name, f in [("target", first), *((f.name, f) for f in others)]
    }


@pytest.fixture
def stained(tmp_path):
    """Write an OME-Zarr of two named channels and two levels."""
    path = tmp_path / "stained.zarr"
    image = np.random.default_rng(2).integers(1, 99, (2, 4, 32, 32)).astype(np.uint8)
    size = {"voxel_size_nm": (50.0, 4.0, 4.0), "chunks": (1, 1, 16, 16)}
    write_ome_zarr(path, image, axes="czyx", n_levels=2, **size)
    group = zarr.open_group(path, mode="r+")
    group.attrs["ome"] = {**group.attrs["ome"], "omero": CHANNELS}
    return path


def test_axes_levels_channels_voxel_size_and_chunks_are_told(stained):
    told = findings(stained, channel=1, level=1)
    assert told["target"][1].startswith("uint8 2×16×16 (zyx), level 1, voxels 100,8,8 nm; metadata")
    assert told["axes"] == ("ok", "czyx (2, 4, 32, 32) uint8", "")
    assert told["levels"] == ("ok", "0: 4×32×32 of 50,4,4 nm; 1: 2×16×16 of 100,8,8 nm", "")
    assert told["channels"] == ("ok", "2: 0 = DAPI, 1 = actin", "")
    assert told["voxel size"] == ("ok", "100,8,8 nm", "")
    assert told["chunks"] == ("ok", "1×16×16 (zyx); all 2 are written", "")


def test_channels_are_to_be_chosen_here_or_in_the_bank(stained):
    told = findings(stained)
    assert told["target"][0] == "ok"
    assert told["levels"][1].startswith("0: 4×32×32 of 50,4,4 nm")
    state, text, remedy = told["channels"]
    assert (state, text) == ("absent", "2: 0 = DAPI, 1 = actin")
    assert "--channel" in remedy
    assert [remedy for _, _, remedy in told.values() if remedy] == [remedy]


def test_what_is_known_is_told_of_a_target_that_needs_an_option(tmp_path):
    array = np.ones((2, 4, 8, 8), np.uint8)
    size = {"voxel_size_nm": (50, 4, 4), "chunks": (1, 1, 8, 8), "n_levels": 1}
    write_ome_zarr(tmp_path / "film.zarr", array, axes="tzyx", **size)
    told = findings(tmp_path / "film.zarr")
    problem = "the target has 2 along its time axis"
    assert told["target"] == ("bad", problem, "choose --time 0..1")
    assert told["levels"][1] == "0: 4×8×8 of 50,4,4 nm"
    assert [remedy for _, _, remedy in told.values() if remedy] == ["choose --time 0..1"]


def test_axes_that_are_not_named_are_asked_for_and_taken(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.ones((2, 3, 8, 8), np.uint8))
    told = findings(tmp_path / "a.zarr")
    assert told["target"][0] == "bad"
    assert told["target"][2] == "name them with --axes, for example --axes czyx"
    assert told["axes"][1] == "not named (2, 3, 8, 8) uint8"
    told = findings(tmp_path / "a.zarr", axes="tzyx", time=0)
    assert told["target"][0] == "ok"
    assert told["axes"][1] == "tzyx (2, 3, 8, 8) uint8"
    assert told["time points"][1] == "2"


def test_a_voxel_size_that_is_not_known_has_a_remedy(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.ones((2, 8, 8), np.uint8))
    state, text, remedy = findings(tmp_path / "a.zarr")["voxel size"]
    assert (state, text) == ("absent", "not known")
    assert "--scales 0.25,0.5,1,2" in remedy


def test_an_old_image_without_axes_units_and_scale_is_told_in_few_lines(tmp_path):
    datasets = [{"path": "0"}]
    attributes = {"multiscales": [{"datasets": datasets}]}
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2, attributes=attributes)
    group.create_array("0", data=np.ones((2, 8, 8), np.uint8))
    for options in ({}, {"axes": "zyx"}):
        told = findings(tmp_path / "a.zarr", **options)
        assert told["target"][0] == "ok"
        assert told["axes"][1] == "zyx (2, 8, 8) uint8"
        because = "axis z has no unit, axis y has no unit, axis x has no unit"
        assert told["voxel size"][1] == f"not known ({because})"
        assert "note" not in told


def test_unwritten_chunks_are_counted_in_the_region_that_is_taken(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 8, 8), chunks=(1, 8, 8), dtype="u1")
    array[0] = 7
    state, text, remedy = findings(tmp_path / "a.zarr")["chunks"]
    assert (state, text) == ("absent", "1×8×8 (zyx); 3 of 4 unwritten")
    assert "--roi" in remedy
    told = findings(tmp_path / "a.zarr", roi="0:1,:,:")
    assert told["chunks"] == ("ok", "1×8×8 (zyx); all 1 are written", "")


def test_labels_are_no_target_and_the_remedy_names_their_image(tmp_path):
    image, size = np.ones((2, 8, 8), np.uint8), {"voxel_size_nm": (1, 1, 1), "chunks": (1, 8, 8)}
    write_ome_zarr(tmp_path / "a.zarr", image, axes="zyx", labels={"cells": image}, **size)
    told = findings(tmp_path / "a.zarr" / "labels" / "cells")
    assert (told["target"][0], told["axes"][1]) == ("bad", "zyx (2, 8, 8) uint8")
    assert told["target"][2] == f"name the image that they label, {tmp_path / 'a.zarr'}"


def test_the_images_of_a_plate_are_told_apart_from_the_remedy(tmp_path):
    path = tmp_path / "plate.zarr"
    zarr.create_group(path, attributes={"ome": {"plate": {"wells": [{"path": "A/1"}]}}})
    images = [{"path": "0"}, {"path": "1"}]
    zarr.create_group(path / "A/1", attributes={"ome": {"well": {"images": images}}})
    assert findings(path) == {
        "target": (
            "bad",
            f"{path} is a plate of several fields; there are A/1/0, A/1/1",
            f"name one, as {path}::A/1/0",
        )
    }


def test_a_remedy_is_told_once_and_only_where_it_fits(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.ones((2, 8, 8), bool))
    state, text, remedy = findings(tmp_path / "a.zarr")["target"]
    assert (state, remedy) == ("bad", "")
    assert "want integers or real numbers" in text
    (tmp_path / "a.czi").write_bytes(b"what nobody here reads")
    assert findings(tmp_path / "a.czi")["target"][2] == "convert it to zarr first"
    assert findings(tmp_path / "none.zarr")["target"][2] == "check the path"
    assert "network" in findings("http://127.0.0.1:9/a.zarr")["target"][2]
