"""Anytime ranking keeps its promises in simulation: rarely wrong, and few blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.race_banks import (
    Bank,
    awkward_bank,
    close_bank,
    real_tiles,
    resampled_bank,
    terabyte_bank,
)
from cte_dask.engine.racing import Race, Round, rounds
from cte_dask.engine.racing.claims import ABOVE, BEATS, BOTH, WITHIN, Claims
from cte_dask.engine.racing.goal import TYPICAL_BLOCKS, Goal, goal_of
from cte_dask.engine.racing.race import DELTA, EPSILON
from cte_dask.engine.racing.surplus import Surplus
from cte_dask.engine.racing.survival import Tally
from cte_dask.engine.racing.watch import BlockTiles, Watch

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"


def raced(bank: Bank, *, seed: int, budget: int | None = None, **settings) -> Race:
    race = Race(len(bank.medians), bank.tiles, **settings)
    for drawn in rounds(bank.grid, seed=seed):
        race.observe(drawn, [bank.block(b) for b in drawn.blocks])
        if race.proven is not None or (budget and race.blocks >= budget):
            break
    return race


def from_array(values: np.ndarray, grid=None) -> Bank:
    rows = np.swapaxes(values, 0, 1).reshape(values.shape[1], -1)
    medians = np.array([np.median(row[~np.isnan(row)]) for row in rows])
    return Bank(grid or (len(values), 1, 1), values.shape[2], medians, lambda i: values[i])


def covered(race: Race, bank: Bank) -> np.ndarray:
    low, high = race.intervals()
    return (low <= bank.medians) & (bank.medians <= high)


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 5, 7), (20, 10, 10)])
def test_every_block_comes_once_and_the_seed_decides_when(counts):
    order = [b for r in rounds(counts, seed=1) for b in r.blocks]
    assert sorted(order) == list(range(np.prod(counts)))
    assert order == [b for r in rounds(counts, seed=1) for b in r.blocks]
    if len(order) > 1:
        assert order != [b for r in rounds(counts, seed=2) for b in r.blocks]


def test_a_budget_ends_the_order_with_a_smaller_round_and_changes_nothing_before():
    whole, part = (list(rounds((4, 5, 6), seed=3, most=most)) for most in (None, 11))
    assert [len(r.blocks) for r in part] == [4, 4, 3]
    assert part[:2] == whole[:2]
    assert sum(part[2].weights) == pytest.approx(3)
    assert [len(r.blocks) for r in rounds((4, 5, 6), seed=3, most=500)][-1] == 4


def test_every_round_looks_at_the_whole_target_and_any_block_may_be_first():
    firsts = [next(rounds((4, 4, 4), seed=seed)) for seed in range(2000)]
    counts = np.bincount([b for r in firsts for b in r.blocks], minlength=64)
    assert abs(counts / 2000 - 4 / 64).max() < 0.025
    quarters = {tuple(sorted(b // 16 for b in r.blocks)) for r in firsts}
    assert quarters <= {(0, 0, 2, 2), (0, 0, 2, 3), (0, 0, 3, 3), (0, 1, 2, 2), (0, 1, 2, 3),
                        (0, 1, 3, 3), (1, 1, 2, 2), (1, 1, 2, 3), (1, 1, 3, 3)}  # fmt: skip


def test_the_weights_of_a_round_are_the_stretches_its_blocks_stand_for():
    drawn = next(rounds((1, 1, 10), seed=0, first=4))
    assert drawn.unread == 10
    assert sorted(w * 10 / 4 for w in drawn.weights) == [2, 2, 3, 3]


@pytest.mark.slow
@pytest.mark.timeout(3000)  # half a minute on a core that nobody shares
def test_on_a_terabyte_the_best_model_is_found_in_few_blocks_and_rarely_missed():
    rng, banks = np.random.default_rng(0), 1000
    wrong, used, uncovered, models = 0, [], 0, 0
    for seed in range(banks):
        bank = terabyte_bank(rng)
        race = raced(bank, seed=seed, budget=120)
        wrong += bank.medians[race.standing[0]] < bank.medians.max() - EPSILON
        used.append(race.blocks)
        uncovered += (~covered(race, bank)).sum()
        models += len(bank.medians)
    assert wrong <= DELTA * banks
    assert np.median(used) <= 0.02 * 2000
    assert np.median(used) <= TYPICAL_BLOCKS[0], "what cte plan tells"
    assert np.quantile(used, 0.75) <= TYPICAL_BLOCKS[1]
    assert uncovered <= 0.05 * models


@pytest.mark.slow
def test_with_the_correlations_of_a_real_target_the_best_model_is_found_in_few_blocks_too():
    rng, banks, scores = np.random.default_rng(8), 100, real_tiles(RESULTS / "anytime-epfl.json")
    wrong, used = 0, []
    for seed in range(banks):
        bank = resampled_bank(rng, scores[seed % len(scores)])
        race = raced(bank, seed=seed, budget=120)
        wrong += bank.medians[race.standing[0]] < bank.medians.max() - EPSILON
        used.append(race.blocks)
    assert wrong <= DELTA * banks
    assert np.median(used) <= 0.02 * 2000


def hasty(bank: Bank, *, seed: int, budget: int) -> int:
    """Take tiles for independent: stop once a paired t-test over them says the leader is ahead."""
    seen = np.empty((len(bank.medians), 0))
    for drawn in rounds(bank.grid, seed=seed, most=budget):
        seen = np.concatenate([seen, *(bank.block(b) for b in drawn.blocks)], axis=1)
        best = int(np.median(seen, axis=1).argmax())
        ahead = seen[best] - np.delete(seen, best, axis=0)
        if (ahead.mean(axis=1) > 1.96 * ahead.std(axis=1) / seen.shape[1] ** 0.5).all():
            break
    return best


@pytest.mark.slow
def test_where_models_are_close_the_answer_is_right_and_that_of_a_hasty_rule_is_not():
    rng, banks = np.random.default_rng(0), 60
    wrong = rash = decided = 0
    for seed in range(banks):
        bank = close_bank(rng)
        least = bank.medians.max() - EPSILON
        race = raced(bank, seed=seed, budget=400)
        decided += race.proven is not None
        wrong += race.proven is not None and bank.medians[race.proven[0]] < least
        rash += bank.medians[hasty(bank, seed=seed, budget=400)] < least
    assert wrong <= DELTA * banks
    assert decided >= banks / 4
    assert rash > 2 * DELTA * banks, "else these banks could not show anything"


@pytest.mark.slow
@pytest.mark.parametrize("top", [1, 3, None])
def test_whatever_may_go_wrong_with_tiles_a_proven_answer_is_rarely_wrong(top):
    rng, banks = np.random.default_rng(1), 40
    wrong = decided = 0
    for seed in range(banks):
        bank = awkward_bank(rng)
        race = raced(bank, seed=seed, top=top)
        if race.proven is None:
            continue
        decided += 1
        found = bank.medians[list(race.proven)]
        kth = np.sort(bank.medians)[::-1][len(found) - 1]
        if top is None:
            wrong += bool((np.maximum.accumulate(found[::-1])[::-1] > found + EPSILON).any())
        else:
            wrong += bool(found.min() < kth - EPSILON)
    assert wrong <= DELTA * banks
    assert decided >= (banks / 4 if top is None else banks / 2)


def at_the_edge(rng: np.random.Generator, *, rare: float, tile: float, block: float, tiles: int):
    """Two models, the first worse by just epsilon, but better in all but a few rare blocks."""
    scores = 0.7 + rng.normal(0, block, (200, 1, 1)) + rng.normal(0, 0.02, (200, 2, 1))
    scores = scores + rng.normal(0, tile, (200, 2, tiles))
    scores[rng.permutation(200) < rare * 200, 0] -= 0.3
    scores[:, 0] += np.median(scores[:, 1]) - np.median(scores[:, 0]) - EPSILON
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("rare", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("tile", "block", "tiles"), [(0.03, 0.02, 5), (0.001, 0.05, 1)])
def test_a_claim_that_is_just_false_is_proven_no_more_often_than_said(rare, tile, block, tiles):
    rng, runs, error = np.random.default_rng(2), 150, 0.2
    wrong = below = 0
    both = np.ones(2, bool)
    for seed in range(runs):
        scores = at_the_edge(rng, rare=rare, tile=tile, block=block, tiles=tiles)
        first, *others = rounds((200, 1, 1), seed=seed)
        blocks = [scores[b] for b in first.blocks]
        tally = Tally(np.concatenate(blocks, axis=1), tiles_per_block=tiles, raise_by=EPSILON)
        tally.add(look := tally.look(first, blocks))
        how = {"error": error, "gaps": tally.gaps, "past": [look]}
        claim = Claims.none(BOTH).opened(np.array([[0, 1]]), WITHIN, **how)
        bound = Claims.none(ABOVE).opened(np.array([[0, 0]]), BEATS, **how)
        for drawn in others:
            tally.add(look := tally.look(drawn, [scores[b] for b in drawn.blocks]))
            claim, bound = claim.after(look, both), bound.after(look, both)
        wrong += not len(claim)
        median = np.searchsorted(tally.levels, np.median(scores[:, 0]), side="right")
        below += median not in bound.gap
    assert wrong <= error * runs
    assert 0 < below <= error * runs, "the bound is neither invalid nor idle"


def test_copies_are_told_to_be_as_good_as_each_other_and_neither_beats_the_other():
    rng = np.random.default_rng(3)
    one = 0.8 + rng.normal(0, 0.02, (400, 1, 1)) + rng.normal(0, 0.02, (400, 1, 20))
    race = raced(from_array(np.repeat(one, 2, axis=1)), seed=0)
    assert race.proven is not None
    assert race.blocks <= 160
    assert not race.beats(0, 1)
    assert not race.beats(1, 0)
    assert not race.dropped


def test_without_epsilon_copies_are_never_decided_and_what_stands_is_told():
    one = np.random.default_rng(4).uniform(0.2, 0.9, (40, 1, 8))
    race = raced(from_array(np.repeat(one, 2, axis=1)), seed=0, epsilon=0.0)
    assert race.proven is None
    assert race.blocks == 40
    assert race.standing in {(0,), (1,)}


def test_beaten_models_drop_out_and_what_is_said_of_them_later_is_ignored():
    rng = np.random.default_rng(5)
    place = rng.normal(0, 0.02, (300, 1, 1))
    levels = np.array([0.9, 0.893, 0.7, 0.5])[None, :, None]
    values = levels + place + rng.normal(0, 0.02, (300, 4, 30))
    race, other = (Race(4, 30, epsilon=0.001) for _ in range(2))
    for drawn in rounds((300, 1, 1), seed=0):
        blocks = [values[b] for b in drawn.blocks]
        garbage = [np.where(other.active[:, None], b, rng.uniform(size=b.shape)) for b in blocks]
        race.observe(drawn, blocks)
        other.observe(drawn, garbage)
        assert race.standing == other.standing
        assert race.dropped == other.dropped
        if race.proven:
            break
    assert race.proven == (0,)
    assert race.dropped.keys() >= {2, 3}
    assert race.beats(0, 3)
    np.testing.assert_array_equal(race.intervals(), other.intervals())


def test_a_flagged_model_cannot_win_and_blocks_the_answer_until_it_is_set_aside():
    rng = np.random.default_rng(6)
    values = np.array([0.99, 0.9, 0.6])[None, :, None] + rng.normal(0, 0.003, (200, 3, 10))
    race, flagged = Race(3, 10), np.array([True, False, False])
    for number, drawn in enumerate(rounds((200, 1, 1), seed=0)):
        aside = flagged & (number >= 20)
        race.observe(drawn, [values[b] for b in drawn.blocks], flagged=flagged, aside=aside)
        if race.proven:
            break
        assert race.standing == (1,)
    assert number == 20
    assert race.proven == (1,)


def test_a_model_that_says_nothing_is_set_aside_rarely_by_mistake():
    rng, runs, error = np.random.default_rng(7), 400, 0.1
    mistakes = 0
    for seed in range(runs):
        empty = (rng.permutation(400) < 379) - 0.95  # 94.75 %: not quite
        proof = Surplus(2, least=0.95, error=error)
        for drawn in rounds((400, 1, 1), seed=seed):
            numbers = np.stack([empty[list(drawn.blocks)], np.full(len(drawn.blocks), 0.05)], 1)
            proof.observe(drawn, numbers)
            if drawn.unread <= 200:
                break
        mistakes += proof.proven[0]
        assert proof.proven[1], "one that is always empty is found out"
    assert mistakes <= error * runs


def watched(empty: float, foreground: float, *, blocks: int) -> Watch:
    """Watch a model that is empty on a part of every block's tiles, and what it predicts."""
    watch = Watch(1, tiles_per_block=20, delta=DELTA, places=1)
    values = np.where(np.arange(20) < round(20 * empty), np.nan, 0.9)[None]
    tiles = BlockTiles(values, np.ones((1, 20), bool), np.full((1, 20), foreground))
    for drawn in rounds((500, 1, 1), seed=0, most=blocks):
        watch.observe(drawn, [tiles] * len(drawn.blocks))
    return watch


@pytest.mark.parametrize(
    ("empty", "foreground", "flagged", "aside"),
    [(1.0, 0.0, True, 32), (0.9, 0.1, False, None), (0.0, 0.99, True, 12), (0, 0.9, False, None)],
)
def test_degenerate_models_are_flagged_at_once_and_set_aside_when_it_is_sure(
    empty, foreground, flagged, aside
):
    first = watched(empty, foreground, blocks=4)
    assert first.flagged[0] == flagged
    assert not first.aside[0]
    assert watched(empty, foreground, blocks=aside or 400).aside[0] == bool(aside)


def test_options_become_a_goal():
    assert goal_of(256) is None
    assert goal_of(257) == Goal()
    assert goal_of(9999, exhaustive=True) is None
    assert goal_of(9, until="decided") == Goal()
    assert goal_of(9, until="40") == Goal(blocks=40)
    assert goal_of(9, until="90s") == Goal(seconds=90)
    assert goal_of(9, until="1.5h", top=3) == Goal(top=3, seconds=5400)
    assert goal_of(9, full_order=True, delta=0.01, epsilon=0.0) == Goal(None, 0.01, 0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"until": "soon"}, "--until 'soon' must be decided, a number of blocks, or a time"),
        ({"until": "0"}, "--until 0: at least one block"),
        ({"until": "0s"}, "--until '0s'"),
        ({"top": 0}, "--top must be at least 1"),
        ({"top": 2, "full_order": True}, "--top and --full-order exclude each other"),
        ({"exhaustive": True, "top": 1}, "--exhaustive scores every block"),
        ({"delta": 1.0}, "--delta 1 must lie between 0 and 1"),
        ({"epsilon": -0.1}, "--epsilon -0.1"),
    ],
)
def test_options_that_cannot_be_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        goal_of(1, **options)


def test_rounds_in_which_no_tile_says_anything_change_nothing():
    race = Race(2, 4)
    drawn = rounds((50, 1, 1), seed=0)
    race.observe(next(drawn), [np.full((2, 4), np.nan)] * 4)
    assert race.proven is None
    assert race.standing == ()
    np.testing.assert_array_equal(race.intervals(), [[0, 0], [1, 1]])
    for each in drawn:
        race.observe(each, [np.array([[0.9], [0.4]]) + np.zeros((2, 4))] * len(each.blocks))
        if race.proven:
            break
    assert race.proven == (0,)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="0 models"):
        Race(0, 4)
    with pytest.raises(ValueError, match="top must be at least 1, not 0"):
        Race(2, 4, top=0)
    with pytest.raises(ValueError, match=r"delta 1\.5"):
        Race(2, 4, delta=1.5)
    with pytest.raises(ValueError, match="epsilon -1"):
        Race(2, 4, epsilon=-1)
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        Race(2, 4).observe(Round((0,), (1.0,), 9), [np.zeros((3, 4))])
    with pytest.raises(ValueError, match="1 blocks of numbers for 2"):
        Race(2, 4).observe(Round((0, 1), (1.0, 1.0), 9), [np.zeros((2, 4))])
    with pytest.raises(ValueError, match="at least one block"):
        next(rounds((1, 1, 1), seed=0, size=0))
