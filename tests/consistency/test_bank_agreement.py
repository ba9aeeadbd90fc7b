"""Agreement of a bank: siblings do not outvote the rest, and a copy moves nobody."""

from __future__ import annotations

import math

import numpy as np
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.consistency.bank_agreement import CUT, similarity_of, tile_agreement, tile_votes
from cte_dask.consistency.model_pairs import pairs_of


def names(count: int) -> list[str]:
    return [f"m{i}" for i in range(count)]


def overlaps(masks: np.ndarray) -> np.ndarray:
    """Overlaps (pair, tile) of masks (model, tile, voxel)."""
    rows = []
    for i, j in pairs_of(len(masks)):
        union = (masks[i] | masks[j]).sum(axis=-1)
        common = (masks[i] & masks[j]).sum(axis=-1)
        rows.append(common / np.where(union > 0, union, np.nan))
    return np.array(rows).reshape(-1, masks.shape[1])


def agreement(masks: np.ndarray, voters: np.ndarray | None = None) -> np.ndarray:
    pairs = overlaps(masks)
    return tile_agreement(pairs, similarity_of(names(len(masks)), pairs, voters=voters))


def random_masks(rng, models: int, tiles: int, voxels: int = 60) -> np.ndarray:
    """A truth that models see with errors of their own, some tiles empty for some of them."""
    truth = rng.random((tiles, voxels)) < 0.4
    errors = rng.uniform(0, 0.5, (models, 1, 1))
    masks = truth ^ (rng.random((models, tiles, voxels)) < errors)
    masks[rng.random((models, tiles)) < 0.1] = False
    return masks


def test_distinct_models_are_worth_the_plain_mean_over_the_others():
    masks = random_masks(np.random.default_rng(0), 4, 3, voxels=500)
    pairs = overlaps(masks)
    found = similarity_of(names(4), pairs)
    assert len(set(found.cluster)) == 4
    np.testing.assert_allclose(found.votes, (1 - np.eye(4)) / 3)
    table = dict(zip(pairs_of(4), pairs, strict=True))
    want = np.nanmean([table[0, 1], table[0, 2], table[0, 3]], axis=0)
    np.testing.assert_allclose(tile_agreement(pairs, found)[0], want)


def test_identical_models_agree_perfectly():
    one = random_masks(np.random.default_rng(1), 1, 5)
    found = agreement(np.repeat(one, 3, axis=0))
    assert set(np.unique(found[~np.isnan(found)])) == {1.0}


def test_a_bank_of_one_has_no_agreement_and_says_so():
    pairs = np.empty((0, 4))
    found = similarity_of(["only"], pairs)
    assert np.isnan(tile_agreement(pairs, found)).all()
    assert "no other model" in found.note("only")
    assert found.order() == [0]
    assert found.to_dict()["linkage"] == []


@given(
    models=st.integers(2, 7),
    tiles=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    copied=st.integers(0, 6),
    times=st.integers(1, 3),
    silent=st.booleans(),
)
@examples(400)
def test_a_copy_moves_no_models_agreement(models, tiles, seed, copied, times, silent):
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, models, tiles)
    if rng.random() < 0.5:  # a sibling among them, closer than the cut
        masks[-1] = masks[0] ^ (rng.random(masks[0].shape) < 0.01)
    voters = np.ones(models, bool)
    if silent and models > 2:
        voters[1] = False
    copied = copied % models
    at = sorted([*range(models), *[copied] * times])
    before = agreement(masks, voters)
    after = agreement(masks[at], voters[at])
    for place, model in enumerate(at):
        np.testing.assert_allclose(after[place], before[model], atol=1e-12)


def test_copies_leave_every_rank_as_it_was():
    masks = random_masks(np.random.default_rng(5), 6, 9, voxels=400)
    before = np.nanmedian(agreement(masks), axis=1)
    for copied in range(6):
        after = np.nanmedian(agreement(np.concatenate([masks, masks[[copied] * 4]])), axis=1)
        assert list(np.argsort(after[:6])) == list(np.argsort(before))
        np.testing.assert_allclose(after[6:], before[copied])


def test_siblings_do_not_outvote_the_rest():
    rng = np.random.default_rng(2)
    truth = rng.random((7, 2000)) < 0.4
    good = truth ^ (rng.random((4, 7, 2000)) < 0.12)
    odd = rng.random((1, 7, 2000)) < 0.4
    family = odd ^ (rng.random((9, 7, 2000)) < 0.004)
    masks = np.concatenate([good, family])
    found = np.nanmedian(agreement(masks), axis=1)
    assert found[:4].min() > found[4:].max()
    plain = np.nanmean(np.where(np.eye(13, dtype=bool)[..., None], np.nan,
                                _table(overlaps(masks), 13)), axis=1)  # fmt: skip
    assert np.median(plain, axis=1)[:4].max() < np.median(plain, axis=1)[4:].min()


def _table(pairs: np.ndarray, models: int) -> np.ndarray:
    from cte_dask.consistency.model_pairs import pair_table

    return pair_table(pairs, models)


def test_models_closer_than_the_cut_are_one_cluster_and_others_are_not():
    for overlap, together in ((1 - CUT + 0.001, True), (1 - CUT - 0.001, False)):
        pairs = np.array([[overlap] * 3, [0.3] * 3, [0.4] * 3])
        found = similarity_of(names(3), pairs)
        assert (found.cluster[0] == found.cluster[1]) == together
        assert found.cluster[2] not in found.cluster[:2]
    np.testing.assert_allclose(found.matrix[0], [1, 1 - CUT - 0.001, 0.3])


def test_a_cluster_counts_once_and_its_members_share_its_vote():
    pairs = np.array([[0.99], [0.5], [0.3], [0.5], [0.3], [0.2]])  # 0 and 1 are siblings
    found = similarity_of(names(4), pairs)
    np.testing.assert_allclose(found.votes[2], [0.25, 0.25, 0, 0.5])
    np.testing.assert_allclose(found.votes[0], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(
        tile_agreement(pairs, found)[:, 0], [0.4, 0.4, (0.5 + 0.2) / 2, (0.3 + 0.2) / 2]
    )


def test_models_without_a_vote_are_worth_something_but_move_nobody():
    masks = random_masks(np.random.default_rng(3), 4, 5)
    everything = np.ones((1, *masks.shape[1:]), bool)
    voters = np.array([True] * 4 + [False])
    found = agreement(np.concatenate([masks, everything]), voters)
    np.testing.assert_allclose(found[:4], agreement(masks))
    assert not np.isnan(found[4]).all()


def test_pairs_that_say_nothing_are_left_out_and_a_tile_without_any_is_nan():
    pairs = np.array([[np.nan, np.nan], [0.4, np.nan], [0.6, np.nan]])
    found = tile_agreement(pairs, similarity_of(names(3), np.array([[0.5], [0.5], [0.5]])))
    np.testing.assert_allclose(found[:, 0], [0.4, 0.6, 0.5])
    assert np.isnan(found[:, 1]).all()


def test_the_linkage_is_one_of_all_models_copies_first():
    from scipy.cluster.hierarchy import is_valid_linkage

    masks = random_masks(np.random.default_rng(4), 4, 6)
    found = similarity_of(names(7), overlaps(masks[[0, 1, 1, 2, 0, 3, 1]]))
    assert is_valid_linkage(found.linkage)
    assert found.linkage[:3, 2].tolist() == [0, 0, 0]
    assert found.linkage[3:, 2].min() > 0
    assert found.linkage[-1, 3] == 7
    order = found.order()
    assert sorted(order) == list(range(7))
    assert sorted(order.index(m) for m in (1, 2, 6)) == list(
        range(min(order.index(m) for m in (1, 2, 6)), max(order.index(m) for m in (1, 2, 6)) + 1)
    )


def test_a_tile_alone_tells_votes_too():
    pairs = np.array([1.0, 0.5, 0.5])
    np.testing.assert_allclose(
        tile_votes(pairs, voters=np.ones(3, bool)), [[0, 0, 1], [0, 0, 1], [0.5, 0.5, 0]]
    )
    assert not tile_votes(np.empty(0), voters=np.ones(1, bool)).any()
    alone = tile_votes(np.array([np.nan]), voters=np.array([True, False]))
    assert not alone[0].any()


def test_what_is_written_is_json():
    import json

    pairs = np.array([[np.nan], [0.5], [0.5]])
    found = similarity_of(names(3), pairs).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["matrix"][0] == [1.0, None, 0.5]
    assert found["cut"] == CUT
    assert math.isclose(found["linkage"][-1][3], 3)
