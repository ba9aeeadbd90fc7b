"""A network of one extent predicts larger images as if it took them."""

from __future__ import annotations

import pytest
import torch
from odd_outputs import FixedConvolutions

from cte_dask.models.windows import Windows

CASES = [
    ((24, 24), (24, 24)),
    ((24, 24), (40, 24)),
    ((24, 16), (57, 61)),
    ((8, 16, 24), (8, 40, 25)),
    ((8, 16, 24), (21, 16, 50)),
]


@pytest.mark.parametrize(("extent", "shape"), CASES)
def test_windows_with_their_halo_give_what_the_network_would(
    extent: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    network = FixedConvolutions(extent).eval()
    x = torch.rand(2, 1, *shape)
    with torch.no_grad():
        got = Windows(network, extent=extent, halo=(2,) * len(extent))(x)
        torch.testing.assert_close(got, network.plain(x))


def test_a_halo_too_short_shows_and_one_too_long_is_refused() -> None:
    network = FixedConvolutions((24, 24)).eval()
    x = torch.rand(1, 1, 40, 40)
    with torch.no_grad():
        got = Windows(network, extent=(24, 24), halo=(1, 1))(x)
    assert not torch.allclose(got, network.plain(x))
    with pytest.raises(ValueError, match=r"a halo of \(12, 12\) leaves nothing"):
        Windows(network, extent=(24, 24), halo=(12, 12))


def test_an_axis_may_be_free() -> None:
    network = FixedConvolutions((16, 24, 24)).eval()
    x = torch.rand(1, 1, 16, 40, 24)
    with torch.no_grad():
        got = Windows(network, extent=(None, 24, 24), halo=(2, 2, 2))(x)
        torch.testing.assert_close(got, network.plain(x))


def test_an_image_smaller_than_a_window_is_mirrored() -> None:
    network = FixedConvolutions((24, 24)).eval()
    x = torch.rand(1, 1, 10, 24)
    mirrored = torch.cat([x, x.flip(2), x[:, :, :4]], dim=2)
    with torch.no_grad():
        got = Windows(network, extent=(24, 24), halo=(2, 2))(x)
        torch.testing.assert_close(got, network.plain(mirrored)[:, :, :10])


def test_layers_keep_the_names_that_a_bank_uses() -> None:
    network = FixedConvolutions((24, 24)).eval()
    windows = Windows(network, extent=(24, 24), halo=(2, 2))
    assert dict(windows.named_modules()) == dict(network.named_modules())
    assert dict(windows.named_parameters()).keys() == dict(network.named_parameters()).keys()
    assert windows.get_submodule("two") is network.two
    assert not windows.training
