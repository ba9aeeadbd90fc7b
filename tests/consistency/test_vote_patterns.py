"""Vote patterns: tables tell of packed bits what plain masks tell, however they are cut."""

from __future__ import annotations

import ast
import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.consistency.model_pairs import pair_overlaps, pair_table, pairs_of
from cte_dask.consistency.vote_patterns import (
    MOST_PATTERNS,
    core_bits,
    joined,
    no_votes,
    packed,
    patterns_by_sorting,
    vote_tables,
    votes_of,
    words_for,
)
from tests.device import PACKAGE, build_for_host, compile_for_gpu

HEADER = PACKAGE / "consistency" / "device" / "vote_words.cuh"
SHIM = Path(__file__).with_name("vote_words_shim.cpp")


def random_maps(rng, models, tiles, shape, similarity):
    """Probability maps of models that agree on a part of the voxels, and tiles' cores."""
    shared = rng.random((tiles, *shape))
    maps = []
    for _ in range(models):
        own = rng.random((tiles, *shape))
        follows = rng.random((tiles, *shape)) < similarity
        maps.append(np.where(follows, shared, own).astype(np.float32))
    cores = [tuple(slice(0, int(rng.integers(1, n + 1))) for n in shape) for _ in range(tiles)]
    return maps, cores


def tables_of(maps, cores, voted=None, **options):
    masks = np.stack([packed([m], cores=cores, threshold=0.5) for m in maps])
    voted = np.ones((len(cores), len(maps)), bool) if voted is None else voted
    return vote_tables(masks, core_bits(maps[0].shape[1:], cores), voted, **options)


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else np.nan


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 90)),
    models=st.sampled_from([1, 2, 5, 63, 64, 65, 130]),
    tiles=st.integers(1, 3),
    similarity=st.sampled_from([0.0, 0.9, 0.999, 1.0]),
    seed=st.integers(0, 99),
)
def test_tables_count_what_plain_masks_hold(shape, models, tiles, similarity, seed):
    rng = np.random.default_rng(seed)
    maps, cores = random_maps(rng, models, tiles, shape, similarity)
    voted = rng.random((tiles, models)) < 0.8
    tables = tables_of(maps, cores, voted, most=4096)
    assert (tables.step == voted.any(axis=1)).all()
    start = 0
    for tile, core in enumerate(cores):
        votes, counts = (
            tables.votes()[start : tables.ends[tile]],
            tables.counts[start : tables.ends[tile]],
        )
        start = tables.ends[tile]
        if not voted[tile].any():
            assert not len(counts)
            continue
        plain = np.stack([(m[tile][core] > np.float32(0.5)).ravel() for m in maps], axis=1)
        want, number = np.unique(plain & voted[tile], axis=0, return_counts=True)
        got = {v.tobytes(): c for v, c in zip(votes, counts, strict=True)}
        assert got == {v.tobytes(): c for v, c in zip(want, number, strict=True)}


@given(
    models=st.sampled_from([1, 3, 64, 70]),
    words=st.integers(1, 40),
    step=st.sampled_from([1, 2, 8]),
    density=st.sampled_from([0.01, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_kernel_counts_what_sorting_counts(models, words, step, density, seed):
    from cte_dask.consistency._numba_votes import count_patterns

    rng = np.random.default_rng(seed)
    bits = rng.random((models, words * 64)) < density
    core = np.packbits(rng.random(words * 64) < 0.9).view(np.uint64)
    masks = np.packbits(bits, axis=1).view(np.uint64)
    want, number = patterns_by_sorting(masks, core, step)
    rows = len(number)
    patterns, counts = np.empty((rows, words_for(models)), np.uint64), np.empty(rows, np.int64)
    slots = np.empty(1 << (2 * rows).bit_length(), np.int32)
    assert count_patterns(masks, core, step, slots, patterns, counts) == rows
    order = np.lexsort(patterns.T[::-1])
    np.testing.assert_array_equal(patterns[order], want)
    np.testing.assert_array_equal(counts[order], number)
    if rows > 1:
        few, fewer = patterns[1:], counts[1:]
        assert count_patterns(masks, core, step, slots, few, fewer) > rows - 1


def test_a_tile_of_too_many_patterns_is_looked_at_on_a_lattice_and_says_so():
    rng = np.random.default_rng(0)
    maps, _ = random_maps(rng, 20, 2, (1, 64, 256), 0.0)
    maps = [np.stack([m[0], maps[0][1]]) for m in maps]  # all agree on the second tile
    cores = [(slice(0, 1), slice(0, 64), slice(0, 256))] * 2
    tables = tables_of(maps, cores)
    assert tables.step[0] >= 2
    assert tables.step[1] == 1
    assert 0 < tables.lengths[0] <= MOST_PATTERNS
    assert tables.lengths[1] == 2
    seen = tables.counts[: tables.ends[0]].sum()
    assert seen == 64 * 256 / tables.step[0]
    assert tables.voxels[: tables.ends[0]].sum() == 64 * 256
    alone = tables_of([m[:1] for m in maps], cores[:1])
    np.testing.assert_array_equal(alone.patterns, tables.patterns[: tables.ends[0]])


def test_tables_are_the_same_in_any_batch():
    rng = np.random.default_rng(1)
    maps, cores = random_maps(rng, 5, 6, (2, 9, 33), 0.9)
    together = tables_of(maps, cores)
    apart = [tables_of([m[i : i + 1] for m in maps], cores[i : i + 1]) for i in range(6)]
    for field in ("ends", "patterns", "counts", "voted", "step"):
        np.testing.assert_array_equal(getattr(joined(apart), field), getattr(together, field))
    one = together.of_tile(3)
    np.testing.assert_array_equal(one.patterns, apart[3].patterns)


def test_overlaps_are_those_of_plain_masks():
    rng = np.random.default_rng(2)
    maps, cores = random_maps(rng, 4, 5, (2, 9, 33), 0.8)
    maps[3][:] = 0
    voted = np.ones((5, 4), bool)
    voted[2, 1] = False
    rows = pair_overlaps(tables_of(maps, cores, voted))
    table = pair_table(rows, 4)
    assert np.isnan(table[np.arange(4), np.arange(4)]).all()
    for row, (i, j) in zip(rows, pairs_of(4), strict=True):
        np.testing.assert_array_equal(table[i, j], row)
        np.testing.assert_array_equal(table[j, i], row)
        for tile, core in enumerate(cores):
            a, b = maps[i][tile][core] > 0.5, maps[j][tile][core] > 0.5
            want = iou(a, b) if voted[tile, [i, j]].all() else np.nan
            np.testing.assert_equal(row[tile], want)


def test_a_model_that_failed_later_leaves_no_trace():
    rng = np.random.default_rng(3)
    maps, cores = random_maps(rng, 4, 3, (1, 12, 40), 0.7)
    voted = np.ones((3, 4), bool)
    voted[:, 1] = False
    want, got = tables_of(maps, cores, voted), tables_of(maps, cores).without([1])
    for field in ("ends", "patterns", "counts", "voted", "step"):
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field))


def test_foreground_of_any_class_is_foreground():
    rng = np.random.default_rng(4)
    classes = [rng.random((2, 1, 8, 9)).astype(np.float32) for _ in range(3)]
    cores = [(slice(0, 1), slice(0, 8), slice(0, 7))] * 2
    either = packed([np.maximum.reduce(classes)], cores=cores, threshold=0.7)
    np.testing.assert_array_equal(packed(classes, cores=cores, threshold=0.7), either)


def test_tiles_without_votes_have_empty_tables():
    tables = no_votes(3, 70)
    assert len(tables) == 3
    assert tables.models == 70
    assert not tables.step.any()
    assert not len(tables.counts)
    assert np.isnan(pair_overlaps(no_votes(2, 3))).all()


@pytest.mark.parametrize("models", [1, 64, 65])
def test_bits_are_read_back_in_the_models_order(models):
    patterns = np.zeros((models, words_for(models)), np.uint64)
    for m in range(models):
        patterns[m, m // 64] = np.uint64(1) << np.uint64(m % 64)
    np.testing.assert_array_equal(votes_of(patterns, models), np.eye(models, dtype=bool))


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_for_host(SHIM, HEADER, tmp_path_factory.mktemp("shim") / "votes.so")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_kernel_compiles_for_the_gpu(architecture: str, tmp_path: Path) -> None:
    compile_for_gpu(HEADER, architecture, tmp_path / "votes.cubin")
    assert b"cte_vote_words" in (tmp_path / "votes.cubin").read_bytes()


@pytest.mark.parametrize("step", [1, 4])
def test_device_words_are_the_patterns_of_the_host(shim: ctypes.CDLL, step: int) -> None:
    rng = np.random.default_rng(5)
    masks = rng.integers(0, 2**63, (37, 20), dtype=np.int64).astype(np.uint64)
    every = np.full(20, 2**64 - 1, np.uint64)
    looked_at = -(-20 // step)
    out = np.zeros(looked_at * 64, np.uint64)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (masks, out)]
    sizes = ctypes.c_longlong(20), ctypes.c_longlong(step), ctypes.c_longlong(len(out))
    shim.vote_words(pointers[0], ctypes.c_int(37), *sizes, pointers[1])
    want, number = patterns_by_sorting(masks, every, step)
    words, counts = np.unique(out, return_counts=True)
    np.testing.assert_array_equal(words[:, None], want)
    np.testing.assert_array_equal(counts, number)


def test_the_launcher_and_the_kernel_agree_on_their_sizes(shim: ctypes.CDLL) -> None:
    tree = ast.parse((PACKAGE / "consistency" / "_cupy_votes.py").read_text())
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert constants["_WORD_BITS"] == shim.word_bits()


def test_so_few_patterns_that_no_lattice_would_do_are_refused():
    maps, cores = random_maps(np.random.default_rng(6), 8, 1, (1, 8, 8), 0.0)
    with pytest.raises(ValueError, match="most 63 must be at least 64"):
        tables_of(maps, cores, most=63)
