"""Out of memory: the batch is halved, remembered, and the scores are those of the smaller batch."""

from __future__ import annotations

import noting
import numpy as np
import pytest
import torch
from conftest import blobs

from cte_dask.inference.memory import out_of_memory
from cte_dask.models import load_bank
from cte_dask.results.block_codec import encoded
from cte_dask.scoring.block_scores import STATUS
from cte_dask.scoring.loaded import READY
from cte_dask.scoring.resolve import resolve
from cte_dask.scoring.score_block import score_block
from cte_dask.volume import open_volume

OPTIONS = {"tile": (1, 16, 16), "block": (1, 4, 4), "perturbations": ("gaussian:0.2",)}


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """Settle the model where so much memory is free, then score where there is as much as said."""
    monkeypatch.setattr(noting.Hungry, "asked", [])

    def settle(first: int, later: int, *, opaque: bool = True, **options):
        READY.clear()
        entry = noting.entry("hungry", "hungry", opaque=opaque)
        bank = noting.write_bank(tmp_path / "bank.yaml", entry)
        monkeypatch.setattr(noting.Hungry, "most", first)
        volume = open_volume(blobs((3, 64, 64)), axes="zyx")
        experiment = resolve(volume, load_bank(str(bank)), **{**OPTIONS, **options})
        monkeypatch.setattr(noting.Hungry, "most", later)
        noting.Hungry.asked.clear()
        return experiment

    yield settle
    READY.clear()


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_remembered_and_scores_as_the_smaller_one(settled):
    small = settled(2, 2, batch=2)
    want = [score_block(small, index) for index in range(3)]
    big = settled(8, 2, batch=8)
    assert big.candidates[0].batch == 8
    got = [score_block(big, index) for index in range(3)]
    for a, b in zip(got, want, strict=True):
        assert not a.failures
        assert a.tiles.scored.all()
        np.testing.assert_array_equal(encoded(a.tiles), encoded(b.tiles))
    assert noting.Hungry.asked[:2] == [8, 4]
    assert set(noting.Hungry.asked[2:]) == {2}, "what did not fit is never tried again"


def test_the_batch_is_settled_to_what_fits_where_models_are_tried_out(settled):
    assert settled(2, 2, batch=8).candidates[0].batch == 2


def test_a_model_that_does_not_fit_alone_is_a_failure_with_its_cause(settled):
    experiment = settled(8, 0, batch=8)
    scores = score_block(experiment, 0)
    assert scores.failures == {
        "hungry": "OutOfMemoryError: CUDA out of memory. Tried a batch of 1."
    }
    assert (scores.status == STATUS["failed"]).all()
    assert noting.Hungry.asked == [8, 4, 2, 1]


def test_a_traced_network_is_traced_anew_for_its_smaller_batch(settled):
    """What a trace holds may depend on the batch that it was made with."""
    dropout = {"perturbations": ("dropout:0.5", "gaussian:0.2"), "opaque": False}
    want = score_block(settled(2, 2, batch=2, **dropout), 1)
    experiment = settled(8, 8, batch=8, **dropout)
    assert experiment.candidates[0].features
    from cte_dask.inference.memory import halve
    from cte_dask.scoring.loaded import predictor

    ready = predictor(experiment.candidates[0], experiment.inference)
    halve(ready)
    halve(ready)
    assert ready.batch == 2
    got = score_block(experiment, 1)
    assert not got.failures
    np.testing.assert_array_equal(encoded(got.tiles), encoded(want.tiles))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"),
            True,
        ),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_one):
    assert out_of_memory(error) is is_one


def test_the_host_says_so_in_the_words_that_we_know():
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert out_of_memory(told.value)
