"""The commands on a target of several channels, and a bank whose models see some of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
import zarr
from channel_networks import IMAGE
from troubled import cte

from cte_dask.volume import write_ome_zarr

NAMES = ["phase", "nuclei", "actin", "tubulin"]
MODELS = {"first": None, "second": "nuclei", "both": ["phase", "nuclei"], "three": [0, 3, 2]}
STEPS = {
    "both": [{"name": "zero_mean_unit_variance", "kwargs": {"channel_wise": False}}],
    "three": [
        {"name": "fixed_zero_mean_unit_variance", "kwargs": {"mean": [90, 80, 70], "std": 40}},
        {"name": "clip", "kwargs": {"max": 3}, "channel": 1},
    ],
}
OPTIONS = ["--cluster", "none", "--tile", "1,32,32", "--perturb", "dropout:0.2", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A target with named channels, its labels, and a bank."""
    place = tmp_path_factory.mktemp("channels")
    target = place / "target.zarr"
    write_ome_zarr(
        target, IMAGE, axes="czyx", voxel_size_nm=(9, 9, 9), chunks=(2, 1, 32, 32), version="0.4"
    )
    zarr.open_group(target, mode="r+").attrs["omero"] = {"channels": [{"label": n} for n in NAMES]}
    zarr.create_array(place / "labels.zarr", data=(IMAGE[1] > 130).astype(np.uint8))
    models = {}
    for name, channels in MODELS.items():
        models[name] = {
            "format": "python",
            "source": "channel_networks:network",
            "arguments": {"in_channels": len(channels) if isinstance(channels, list) else 1},
            "trust": True,
            "halo": {"y": 8, "x": 8},
            "multiple": {"y": 2, "x": 2},
            "preprocessing": STEPS.get(name, [{"name": "zero_mean_unit_variance"}]),
            **({} if channels is None else {"channels": channels}),
        }
    (place / "bank.yaml").write_text(yaml.safe_dump({"schema": "cte-bank/1", "models": models}))
    return place


@pytest.fixture(scope="module")
def run(folder):
    out = folder / "RUN"
    bank, target = folder / "bank.yaml", folder / "target.zarr"
    words = ["rank", target, "--bank", bank, "--out", out, "--channel", "0", *OPTIONS]
    done = cte(*words)
    assert done.exit_code == 0, done.output
    again = cte(*words, "--resume")
    assert again.exit_code == 0, again.output
    return out


def test_a_ranking_says_which_channels_each_model_saw(run):
    models = json.loads((run / "ranking.json").read_text())["models"]
    assert {m["name"]: m["note"] for m in models} == {
        "first": "",
        "second": "sees channel nuclei",
        "both": "sees channels phase, nuclei",
        "three": "sees channels phase, tubulin, actin",
    }
    assert all(m["rank"] for m in models)


@pytest.mark.parametrize("command", ["report", "maps", "evaluate", "plan", "check", "status"])
def test_commands_take_models_of_several_channels(folder, run, command):
    bank, labels = folder / "bank.yaml", folder / "labels.zarr"
    words = {
        "report": ["report", run, "--quiet"],
        "status": ["status", run],
        "maps": ["maps", run],
        "evaluate": ["evaluate", run, "--labels", labels, "--cluster", "none"],
        "check": ["models", "check", bank],
        "plan": ["plan", folder / "target.zarr", "--bank", bank, "--channel", "0", *OPTIONS],
    }[command]
    done = cte(*words)
    assert done.exit_code == 0, done.output
    text = (run / "report.html").read_text() if command == "report" else done.output
    if command in ("report", "plan", "check"):
        assert "phase, nuclei" in " ".join(text.split())


def test_a_target_in_which_a_channel_changed_meanwhile_is_another_one(folder, run):
    array = zarr.open_array(folder / "target.zarr" / "0", mode="r+")
    kept = array[3]
    array[3] = kept[..., ::-1]
    bank, target = folder / "bank.yaml", folder / "target.zarr"
    words = ["rank", target, "--bank", bank, "--out", run, "--channel", "0", *OPTIONS, "--resume"]
    done = cte(*words)
    array[3] = kept
    assert done.exit_code == 2, done.output
    assert "differ" in done.output
