"""Turning and magnifying: exact on the grid, and back; every tile covered by its halo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cte_dask.perturb import Perturbation
from cte_dask.perturb.geometry import mirrors, rotations
from cte_dask.perturb.philox import key
from cte_dask.perturb.views import TileContext, View
from cte_dask.perturb.views import view_of as view_in
from cte_dask.perturb.warps import unmoved

PLANE = {"dims": 2, "halo": (0, 3, 3), "multiple": (1, 4, 4)}
BOX = {"dims": 3, "halo": (3, 3, 3), "multiple": (2, 4, 4)}


def view_of(perturbation: Perturbation | None, **context) -> View:
    return view_in(perturbation, TileContext(**context))


def keys(count: int) -> list[tuple[int, int]]:
    return [key(0, "tile", i) for i in range(count)]


def frames_of(view, count: int = 5) -> torch.Tensor:
    values = np.random.default_rng(0).normal(size=(count, *view.shape))
    return torch.from_numpy(values.astype(np.float32))


def tiles_in(view, frames: torch.Tensor) -> torch.Tensor:
    return frames[
        (slice(None), *(slice(b, b + t) for b, t in zip(view.before, view.tile, strict=True)))
    ]


def as_samples(view, frames: torch.Tensor) -> torch.Tensor:
    return frames.reshape(-1, 1, *frames.shape[-view.dims :])


def test_the_rotations_of_a_plane_are_its_two_quarter_turns():
    view = view_of(Perturbation("rotate"), tile=(1, 8, 8), **PLANE)
    image = torch.arange(9.0).reshape(1, 3, 3)
    found = {tuple(s.apply(image).ravel().tolist()) for s in rotations(view)}
    assert found == {tuple(torch.rot90(image, k, (1, 2)).ravel().tolist()) for k in (1, 3)}


def test_the_reflections_of_a_plane_reverse_y_or_x():
    view = view_of(Perturbation("mirror"), tile=(1, 8, 12), **PLANE)
    image = torch.arange(9.0).reshape(1, 3, 3)
    found = {tuple(s.apply(image).ravel().tolist()) for s in mirrors(view)}
    assert found == {tuple(image.flip(axis).ravel().tolist()) for axis in (1, 2)}


@pytest.mark.parametrize(
    ("tile", "alike", "quarter", "count"),
    [
        ((8, 8, 8), (1, 1, 1), True, 20),  # the cube's 24 rotations but four
        ((4, 8, 8), (1, 1, 1), True, 4),  # only y and x are equally long
        ((8, 8, 8), (0, 1, 1), True, 4),  # z has other voxels
        ((4, 8, 12), (1, 1, 1), False, 3),  # half turns
        ((8, 8, 8), (0, 1, 2), False, 3),
    ],
)
def test_a_box_exchanges_only_axes_of_equal_voxels_and_equal_extent(tile, alike, quarter, count):
    view = view_of(Perturbation("rotate"), tile=tile, alike=alike, **BOX)
    found = rotations(view)
    assert len(found) == len(set(found)) == count
    assert all(s.proper for s in found)
    assert all((s.order != (0, 1, 2)) == quarter for s in found)
    assert len(mirrors(view)) == 3
    assert not any(s.proper for s in mirrors(view))


def test_planes_of_unequal_voxels_are_turned_by_half():
    view = view_of(Perturbation("rotate"), tile=(1, 8, 8), alike=(0, 1, 2), **PLANE)
    (half,) = rotations(view)
    assert half.order == (0, 1, 2)
    assert half.reversed == (False, True, True)


@pytest.mark.parametrize("kind", ["rotate", "mirror"])
@pytest.mark.parametrize(
    ("tile", "how"), [((1, 8, 8), PLANE), ((2, 6, 11), PLANE), ((8, 8, 8), BOX), ((4, 6, 9), BOX)]
)
def test_what_is_turned_comes_back_to_the_last_bit(kind, tile, how):
    view = view_of(Perturbation(kind), tile=tile, alike=(1, 1, 1), **how)
    frames = frames_of(view)
    warp = Perturbation(kind).warp(view, keys(len(frames)))
    turned = warp.image(frames)
    assert turned.shape == frames.shape
    assert not torch.equal(turned, frames)
    samples = as_samples(view, turned)
    back = torch.cat([warp.back(samples[i : i + 3], i) for i in range(0, len(samples), 3)])
    assert torch.equal(back, as_samples(view, tiles_in(view, frames)))


def test_draws_differ_between_tiles_and_cover_all_symmetries():
    view = view_of(Perturbation("rotate"), tile=(8, 8, 8), alike=(1, 1, 1), **BOX)
    warp = Perturbation("rotate").warp(view, keys(400))
    assert set(warp.symmetries) == set(rotations(view))
    assert Perturbation("rotate").warp(view, keys(400)) == warp


def test_a_tile_that_is_not_square_is_turned_in_a_square_box():
    how = {"tile": (1, 8, 20), "dims": 2, "halo": (0, 3, 5), "multiple": (1, 4, 6)}
    plain, view = view_of(None, **how), view_of(Perturbation("rotate"), **how)
    assert plain.frame.shape == (1, 16, 30)
    assert view.shape == view.frame.extent == (1, 36, 36)
    assert view.before == (0, 5, 5)
    square = view_of(Perturbation("rotate"), tile=(1, 8, 8), **PLANE)
    assert square.box == view_of(None, tile=(1, 8, 8), **PLANE).box


@given(
    factor=st.floats(0.5, 2),
    extent=st.integers(1, 30),
    halo=st.integers(0, 9),
    multiple=st.sampled_from([1, 4, 16]),
    scale=st.sampled_from([1.0, 0.5, 1.3]),
)
def test_the_halo_covers_the_magnified_tile(factor, extent, halo, multiple, scale):
    view = view_of(
        Perturbation("zoom", factor),
        tile=(extent, extent, 7),
        dims=3,
        halo=(halo,) * 3,
        multiple=(multiple,) * 3,
        scale=(scale,) * 3,
    )
    frame = view.frame
    for axis in range(3):
        first = 0.5 * factor - 0.5  # centres of the tile's first and last voxel, magnified
        last = (view.tile[axis] - 0.5) * factor - 0.5
        context = halo / scale
        assert first + frame.before[axis] >= context
        assert frame.shape[axis] - 1 - frame.before[axis] - last >= context - 1e-9
        # and the box read holds both neighbours of every sample
        low = (0.5 - frame.before[axis]) / factor - 0.5 + view.before[axis]
        high = (frame.after[axis] - 0.5) / factor - 0.5 + view.before[axis]
        assert low >= 0
        assert high <= view.shape[axis] - 1
        assert frame.extent[axis] % multiple == 0


@pytest.mark.parametrize("how", [PLANE, BOX], ids=["2d", "3d"])
@pytest.mark.parametrize("factor", [0.8, 1.125, 1.5])
def test_a_linear_image_is_magnified_exactly_and_comes_back(how, factor):
    view = view_of(Perturbation("zoom", factor), tile=(6, 10, 9), **how)
    grid = np.meshgrid(*(np.arange(n) - b for n, b in zip(view.shape, view.before, strict=True)),
                       indexing="ij")  # fmt: skip
    image = torch.from_numpy((0.5 * grid[0] + 2 * grid[1] - 3 * grid[2]).astype(np.float32))[None]
    warp = Perturbation("zoom", factor).warp(view, keys(1))
    seen = warp.image(image)
    assert seen.shape[1:] == view.frame.shape
    step = (seen[0, 0, 0, 1] - seen[0, 0, 0, 0]).item()
    assert step == pytest.approx(-3 / factor, rel=1e-4)
    back = warp.back(as_samples(view, seen)).reshape(view.tile)
    torch.testing.assert_close(back, tiles_in(view, image)[0], atol=1e-4, rtol=0)


def test_no_magnification_changes_nothing():
    view = view_of(Perturbation("zoom", 1.0), tile=(1, 8, 8), **PLANE)
    frames = frames_of(view, 2)
    warp = Perturbation("zoom", 1.0).warp(view, keys(2))
    samples = as_samples(view, warp.image(frames))
    assert torch.equal(warp.back(samples), as_samples(view, tiles_in(view, frames)))


def test_a_magnified_image_does_not_depend_on_the_halo():
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 80, 80)).astype(np.float32))
    seen = []
    for halo in (0, 5):
        how = {**PLANE, "halo": (0, halo, halo)}
        view = view_of(Perturbation("zoom", 1.125), tile=(1, 16, 16), **how)
        low, size = 30 - view.before[1], view.shape[1]
        box = image[:, low : low + size, low : low + size][None]
        whole = Perturbation("zoom", 1.125).warp(view, keys(1)).image(box)[0]
        at = view.frame.before[1]
        seen.append(whole[:, at : at + 18, at : at + 18])
    assert torch.equal(*seen)


def test_labels_come_back_by_the_nearest_voxel():
    view = view_of(Perturbation("zoom", 1.5), tile=(1, 8, 8), **PLANE)
    labels = torch.randint(0, 9, (1, 1, *view.frame.shape[1:]), dtype=torch.int32)
    back = Perturbation("zoom", 1.5).warp(view, keys(1)).back(labels, nearest=True)
    assert back.dtype == torch.int32
    assert back.shape == (1, 1, 8, 8)
    before = view.frame.before[1]
    centre = int(np.floor((3 + 0.5) * 1.5)) + before
    assert back[0, 0, 3, 3] == labels[0, 0, centre, centre]


def test_the_unperturbed_pass_moves_nothing():
    view = view_of(None, tile=(1, 8, 8), **PLANE)
    frames = frames_of(view, 2)
    assert unmoved(view).image(frames) is frames
    want = as_samples(view, tiles_in(view, frames))
    assert torch.equal(unmoved(view).back(as_samples(view, frames)), want)
