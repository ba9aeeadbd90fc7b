"""Out of memory: the batch is halved, remembered, and the scores are those of the smaller batch."""

from __future__ import annotations

from dataclasses import replace

import noting
import numpy as np
import pytest
import torch
from conftest import blobs

from cte_dask.inference.device import peak_of
from cte_dask.inference.memory import filling_batch, out_of_memory
from cte_dask.inference.settings import Inference
from cte_dask.models import load_bank
from cte_dask.models.network import Network
from cte_dask.models.unet import UNet
from cte_dask.results.block_codec import encoded
from cte_dask.scoring import candidates
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


class Card:
    """The memory of a card: what a network takes once, and for each sample."""

    def __init__(self, free: int, *, once: int = 100, each: int = 1000) -> None:
        self.bytes, self.once, self.each = free, once, each
        self.samples: list[int] = []

    def forward(self, x):
        self.samples.append(len(x))
        return x

    def free(self) -> int:
        return self.bytes

    def peak(self, run) -> int:
        run()
        taken = self.once + self.each * self.samples[-1]
        if taken > self.bytes:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return taken


def filling(card: Card, most: int, **options) -> int:
    network = Network(forward=card.forward, kind="opaque")
    meters = {"free": card.free, "peak": card.peak, **options}
    return filling_batch(network, (1, 4, 4), Inference((1, 4, 4)), most, **meters)


@pytest.mark.parametrize(
    ("free", "batch"),
    [(2_000_000, 512), (200_000, 64), (128_200, 64), (128_198, 32), (2500, 1), (1200, 1)],
)
def test_a_batch_fills_half_of_the_free_memory(free, batch):
    card = Card(free)
    assert filling(card, most=512) == batch
    assert set(card.samples) == {1, 2}


def test_a_batch_is_no_larger_than_the_run():
    assert filling(Card(2_000_000), most=7) == 7


def test_a_card_whose_memory_cannot_be_told_starts_with_the_most():
    def untold(run):
        raise RuntimeError("the allocator does not support getDeviceStats")

    assert filling(Card(2_000_000), most=34, peak=untold) == 34


def test_on_a_gpu_a_model_is_settled_with_the_batch_that_fills_it(settled, monkeypatch):
    """Settled for the CPU, as if it were a card: only what is measured is made up."""
    monkeypatch.setattr(candidates, "filling_batch", lambda *_: 4)
    monkeypatch.setattr(noting.Hungry, "most", 8)
    experiment = settled(8, 8, opaque=False)
    spec = experiment.candidates[0].spec
    draft = replace(experiment.candidates[0], batch=64)
    filled, network = candidates._filled(draft, Inference((1, 16, 16)), None, (3, 64, 64))
    assert (filled.batch, network.fixed_batch) == (4, None)
    alone, same = candidates._filled(draft, Inference((1, 16, 16)), network, (1, 16, 16))
    assert (alone.batch, same) == (1, network)
    assert filled.spec is spec


@pytest.mark.gpu
def test_gpu_is_filled_as_measured():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    module = UNet(dims=2, features=(16, 32)).eval().cuda()
    inference = Inference((1, 256, 256), device="cuda")
    free = 2**30
    network = Network(forward=module, kind="module")
    batch = filling_batch(network, (1, 256, 256), inference, 4096, free=lambda: free)
    assert 1 < batch < 4096
    with torch.inference_mode():
        taken = peak_of(lambda: module(torch.rand(batch, 1, 256, 256, device="cuda")))
    assert 0.2 * free < taken < 0.6 * free
