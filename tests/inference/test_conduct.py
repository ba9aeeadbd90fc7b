"""Networks that remember, draw at random or look at their neighbours are found out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import unruly_networks
import yaml
from conftest import blobs
from torch import nn
from troubled import cte

from cte_dask import score
from cte_dask.consistency.degenerate import BLIND, UNSTEADY
from cte_dask.inference.conduct import ALONE
from cte_dask.inference.graph.bottleneck import bottleneck_module
from cte_dask.inference.trial import check_model
from cte_dask.models.bank import ModelBank
from cte_dask.models.spec import ModelSpec
from cte_dask.ranking.rank import rank
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.loaded import predictor
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import predict_tiles
from cte_dask.volume import open_volume, write_ome_zarr


def bank(*kinds: str) -> ModelBank:
    return ModelBank(
        tuple(
            ModelSpec(
                name=kind,
                format="python",
                source=f"unruly_networks:{kind if kind.islower() else 'late'}",
                arguments={} if kind.islower() else {"kind": kind},
                trust=True,
                halo={"y": 8, "x": 8},
                multiple={"y": 2, "x": 2},
            )
            for kind in kinds
        )
    )


def scored(*kinds: str, batch: int = 4):
    return score(
        open_volume(blobs((2, 64, 64))),
        bank(*kinds),
        perturbations=["dropout:0.2", "gaussian:0.1"],
        tile=(1, 32, 32),
        batch=batch,
    ).compute()


@pytest.mark.parametrize("kind", ["drifting", "random"])
def test_a_model_that_gives_another_answer_each_time_is_named_and_ranked_last(kind):
    ranking = rank(scored("plain", kind, "frozen"))
    assert [m.name for m in ranking.models][-1] == kind
    assert UNSTEADY in ranking.models[-1].flags
    assert [m.flags for m in ranking.models[:-1]] == [(), ()]


def test_a_model_that_normalises_over_its_batch_is_scored_alone_whatever_the_batch():
    small, large = (scored("batched", "plain", batch=batch) for batch in (1, 4))
    np.testing.assert_array_equal(small.nhd, large.nhd)
    assert "tiles are predicted one at a time" in large.attrs["notes"]["batched"]


def test_values_that_a_trace_holds_fast_are_found_by_a_second_input():
    image = blobs((1, 96, 96))
    experiment = resolve(
        open_volume(image), bank("frozen"), perturbations=["dropout:0.2"], tile=(1, 32, 32), batch=1
    )
    assert "the split network differs from the plain one" in experiment.candidates[0].note
    predicted = {t.start: p[0] for _, t, p in predict_tiles(experiment, 0, [])}
    frame = torch.from_numpy(image[0, 24:72, 24:72].astype(np.float32))[None, None]
    with torch.no_grad():
        expected = torch.sigmoid(unruly_networks.frozen()(frame))[0, 0, 8:40, 8:40]
    np.testing.assert_allclose(predicted[0, 32, 32][0], expected, atol=1e-5)


def test_a_branch_that_only_the_target_takes_is_found_on_a_tile_of_the_target():
    image = blobs((1, 96, 96))
    experiment = resolve(
        open_volume(image),
        bank("Branching", "plain"),
        perturbations=["dropout:0.2"],
        tile=(1, 32, 32),
        batch=1,
    )
    assert [c.whole for c in experiment.candidates] == [True, False]
    assert "differs from the plain one on a tile of the target" in experiment.candidates[0].note
    predicted = {t.start: p[0] for m, t, p in predict_tiles(experiment, 0, []) if m == "Branching"}
    frame = torch.from_numpy(image[0, 24:72, 24:72].astype(np.float32))[None, None]
    with torch.no_grad():
        expected = torch.sigmoid(unruly_networks.Branching().eval()(frame))[0, 0, 8:40, 8:40]
    np.testing.assert_allclose(predicted[0, 32, 32][0], expected, atol=1e-5)
    assert np.isfinite(scored("Branching", "plain").nhd).all()


def test_a_model_whose_foreground_ignores_the_image_is_flagged_and_ranked_last():
    ranking = rank(scored("Blind", "plain", "frozen"))
    assert [m.name for m in ranking.models][-1] == "Blind"
    assert [BLIND in m.flags for m in ranking.models] == [False, False, True]


def test_a_model_that_gives_nan_on_every_tile_has_no_rank_and_the_run_is_not_complete(tmp_path):
    bank_file, target = tmp_path / "bank.yaml", tmp_path / "target.zarr"
    models = {m.name: m.model_dump(mode="json", exclude={"name"}, exclude_none=True)
              for m in bank("plain", "nan", "frozen").models}  # fmt: skip
    bank_file.write_text(yaml.safe_dump({"schema": "cte-bank/1", "models": models}))
    write_ome_zarr(
        target, blobs((2, 64, 64)), axes="zyx", voxel_size_nm=(9.0, 9.0, 9.0), chunks=(1, 64, 64)
    )
    asked = ["--cluster", "none", "--tile", "1,32,32", "--perturb", "gaussian:0.1", "--quiet"]
    done = cte("rank", target, "--bank", bank_file, "--out", tmp_path / "RUN", *asked)
    assert done.exit_code == 3, done.output
    result = json.loads((tmp_path / "RUN" / "ranking.json").read_text())
    assert not result["complete"]
    broken = next(m for m in result["models"] if m["name"] == "nan")
    assert broken["rank"] is None
    assert broken["excluded"] == "no tile was scored: 8 with NaN in a prediction"
    assert {m["name"] for m in result["models"] if m["rank"]} == {"plain", "frozen"}


@pytest.mark.parametrize("kind", ["Leaving", "Interrupting", "Meddling", "gone"])
def test_a_model_that_ends_the_program_or_changes_it_harms_no_other(kind):
    alone, beside = scored("plain", "frozen"), scored("plain", kind, "frozen")
    reasons = {**beside.attrs["excluded"], **beside.attrs.get("failures", {})}
    if kind == "gone":
        assert reasons["gone"].endswith("its code called sys.exit(0)")
    elif kind != "Meddling":
        assert (beside.status.sel(model=kind) == STATUS["failed"]).any()
    for name in ("plain", "frozen"):
        np.testing.assert_array_equal(beside.nhd.sel(model=name), alone.nhd.sel(model=name))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("drifting", [f"{UNSTEADY}: it would be ranked last"]),
        ("random", [f"{UNSTEADY}: it would be ranked last"]),
        ("batched", [ALONE]),
        ("plain", []),
        ("frozen", []),
    ],
)
def test_a_check_tells_how_a_network_behaves_as_a_ranking_does(kind, told):
    notes = check_model(bank(kind).models[0]).notes
    assert [n for n in notes if n in (*told, ALONE) or UNSTEADY in n] == told


@pytest.mark.parametrize("extent", [48, 128, 256])
def test_channels_that_stand_last_are_never_taken_for_an_axis_of_the_image(extent):
    """At 128 there are as many channels as voxels in a row, at 256 in a wider layer."""
    network = unruly_networks.channels_last()
    assert bottleneck_module(network, torch.rand(2, 1, extent, extent)) == "patches"
    fixed = nn.Sequential(unruly_networks.Only(extent), network)
    assert bottleneck_module(fixed, torch.rand(2, 1, extent, extent)) == "1.patches"


def test_a_network_with_channels_last_is_ranked():
    data = scored("channels_last", "plain")
    assert (data.status == STATUS["scored"]).all()
    assert data.attrs["excluded"] == {}


@pytest.fixture
def script(tmp_path):
    """Return a bank of a TorchScript archive and a plain network."""

    def save(archive: torch.jit.ScriptModule) -> ModelBank:
        archive.save(tmp_path / "script.pt")
        spec = ModelSpec(
            name="script",
            format="torchscript",
            source=str(tmp_path / "script.pt"),
            halo={"y": 8, "x": 8},
            multiple={"y": 8, "x": 8},
        )
        return ModelBank((spec, *bank("plain").models))

    return save


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_script_whose_features_cannot_be_reached_is_ranked_as_a_black_box(script):
    experiment = resolve(
        open_volume(blobs((1, 64, 64))),
        script(torch.jit.script(unruly_networks.Looking().eval())),
        perturbations=["dropout:0.2", "mirror"],
        tile=(1, 32, 32),
    )
    assert experiment.excluded == {}
    candidate, plain = experiment.candidates
    assert not candidate.features
    assert "its graph cannot be traced" in candidate.note
    assert plain.features
    assert str(experiment.primary) == "nhd@mirror", "what both support"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("tile", [32, 48, 112])
def test_dropout_takes_the_channels_of_a_script_wherever_they_stand(script, tile):
    """Frames of 48, 64 and 128 voxels; 128 is where channels and an axis are of one length."""
    archive = torch.jit.trace(unruly_networks.channels_last(), torch.zeros(1, 1, 64, 64))
    experiment = resolve(
        open_volume(blobs((1, 112, 112))),
        script(archive),
        perturbations=["dropout:0.2"],
        tile=(1, tile, tile),
    )
    assert experiment.excluded == {}
    candidate = experiment.candidates[0]
    path = predictor(candidate, experiment.inference).path
    assert (path.channels, candidate.note) == ((16,), "")
    x = torch.rand(1, 1, tile + 16, tile + 16).repeat(candidate.batch, 1, 1, 1)
    mask = torch.ones(len(x), 16, 1, 1)
    mask[:, 3] = 0
    network = unruly_networks.channels_last()
    network.up.register_forward_pre_hook(lambda _, args: (args[0] * mask,))
    with torch.no_grad():
        np.testing.assert_allclose(path.decode(path.encode(x), [mask]), network(x), atol=1e-5)
