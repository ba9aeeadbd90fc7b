"""Low precision is used only where scores stay those of float32, and the table says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import blobs, write_bank

import cte_dask
from cte_dask.models import load_bank
from cte_dask.models.bank import ModelBank
from cte_dask.models.spec import ModelSpec
from cte_dask.scoring.certificate import BOUND, CALIBRATION_TILES, Certificate
from cte_dask.scoring.resolve import resolve
from cte_dask.volume import open_volume

OPTIONS = {"perturbations": ["dropout:0.2", "gaussian:0.1", "mirror"], "tile": (1, 32, 32)}


def volume():
    return open_volume(blobs((4, 96, 96)))


def bank(kind: str) -> ModelBank:
    spec = ModelSpec(
        name=kind,
        format="python",
        source=f"unruly_networks:{kind}",
        trust=True,
        halo={"y": 8, "x": 8},
        multiple={"y": 2, "x": 2},
    )
    return ModelBank((spec,))


def test_a_network_that_low_precision_harms_runs_in_float32():
    low, full = (
        cte_dask.score(volume(), bank("cancelling"), precision=p, **OPTIONS).compute()
        for p in ("bfloat16", "float32")
    )
    assert (
        "in float32: bfloat16 changes scores of 8 tiles by up to"
        in (low.attrs["notes"]["cancelling"])
    )
    np.testing.assert_array_equal(low.nhd, full.nhd)


def test_a_network_that_bears_it_runs_in_low_precision(tmp_path):
    models = load_bank(write_bank(tmp_path, 1, halo=4))
    [candidate] = resolve(volume(), models, precision="bfloat16", **OPTIONS).candidates
    assert candidate.precision == ""
    assert candidate.note.startswith(f"bfloat16 changes scores of {CALIBRATION_TILES} tiles by")


def test_what_is_scored_in_float32_is_another_experiment():
    harmed = resolve(volume(), bank("cancelling"), precision="bfloat16", **OPTIONS)
    assert harmed.candidates[0].precision == "float32"
    assert harmed.identity()["models"]["cancelling"]["precision"] == "float32"
    assert harmed.to_dict()["models"][0]["precision"] == "float32"


def test_float32_needs_no_certificate(tmp_path):
    models = load_bank(write_bank(tmp_path, 1, halo=4))
    [candidate] = resolve(volume(), models, **OPTIONS).candidates
    assert (candidate.precision, candidate.note) == ("", "")


@pytest.mark.parametrize("largest", [0.0, BOUND, 2 * BOUND, float("inf")])
def test_a_certificate_holds_up_to_its_bound(largest):
    held = Certificate("float16", 8, largest)
    assert held.holds == (largest <= BOUND)
    assert str(held).startswith("in float32: ") != held.holds


def test_the_network_is_built_to_be_harmed():
    """It adds what its precision forgets, and takes it away again."""
    import unruly_networks

    x = torch.rand(1, 1, 32, 32) * 255
    network = unruly_networks.cancelling().eval()
    with torch.no_grad():
        whole, low = network(x), network.bfloat16()(x.bfloat16()).float()
    assert float((whole - low).abs().max()) > 0.1


def test_low_precision_shares_and_fuses_what_float32_does(tmp_path):
    """Its rounding is no sign that passes differ: the certificate judges what it does to scores."""
    models = load_bank(write_bank(tmp_path, 1, halo=4))
    [low], [full] = (
        resolve(volume(), models, precision=p, **OPTIONS).candidates
        for p in ("bfloat16", "float32")
    )
    assert low.precision == ""
    assert full.proof.form.kind == "once"
    assert low.proof.form == full.proof.form


def test_tf32_is_refused_on_a_processor(tmp_path):
    models = load_bank(write_bank(tmp_path, 1, halo=4))
    with pytest.raises(ValueError, match=r"tf32 is of NVIDIA GPUs, not of cpu: use float32"):
        resolve(volume(), models, precision="tf32", device="cpu", **OPTIONS)
